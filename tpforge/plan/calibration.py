"""What the roofline cannot know, fitted to published measurements, and how far it was off on others.

It fits nothing: `benchmarks/planner.py` does, and writes calibration.toml.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from typing import Literal

from tpforge.plan.communication import LinkShares
from tpforge.plan.hardware import Cluster, Gpu
from tpforge.records import Record

BandKind = Literal["one GPU", "nvlink", "pcie", "experts", "unmeasured GPU", "modelled load", "several hosts"]

_ASSUMED_WIDER = (0.75, 1.3)
MOST_RANKS_MEASURED = 8
"""No published row has more ranks."""


class FirstToken(Record):
    """What a request waits for beside reading its own prompt, over HTTP and among others.

    start_ms: the server. ahead: the share of the other requests' prompts that is read first. steps: of the
    running batch, until its own is scheduled and answered.
    """

    start_ms: float
    ahead: float
    steps: float


class TimeBand(Record):
    """Where a measured time lay, as a share of the estimate: 8 of 10 of `rows` are within."""

    low: float
    high: float
    rows: int


class Fit(Record):
    """The fitted values.

    flops: share of the peak of matrix products, by architecture, `other_flops` elsewhere. bandwidth: share
    of the memory rate, by architecture or ``gddr``. blend: the p-norm that joins arithmetic and reading.
    kv_read: how much dearer the cache is to read than weights. attention_share: of the 16-bit peak, for
    prompts. vector_passes: times that the vectors of a layer pass through memory. step_us, layer_us,
    request_us: overheads of a step, of a layer of it, of a request of it.
    """

    flops: dict[str, float]
    other_flops: float
    bandwidth: dict[str, float]
    other_bandwidth: float
    blend: float
    kv_read: float
    attention_share: float
    vector_passes: float
    step_us: float
    layer_us: float
    request_us: float
    links: LinkShares
    first_token: FirstToken

    def flops_share(self, gpu: Gpu) -> float:
        """The share of the peak that matrix products reach on `gpu`, whatever they run on."""
        return self.flops.get(_family(gpu), self.other_flops)

    def bandwidth_share(self, gpu: Gpu) -> float:
        """The share of the memory rate that reading weights reaches on `gpu`."""
        return self.bandwidth.get("gddr" if gpu.gddr else _family(gpu), self.other_bandwidth)


class Band(Record):
    """Where the measured throughput lay, as a share of the estimate: 8 of 10 check rows are within.

    `rows` is 0 where nothing was measured and the band is assumed.
    """

    kind: BandKind
    low: float
    high: float
    rows: int


class Calibration(Record):
    """The fit, its bands, and the GPUs that measurements exist for.

    `scale` multiplies every throughput: 1, or what the user's own runs gave (see `scaled`).
    """

    fit: Fit
    bands: tuple[Band, ...]
    time_bands: dict[Literal["ttft", "tpot"], TimeBand]
    measured_gpus: tuple[str, ...]
    scale: float = 1.0

    def band(
        self, cluster: Cluster, *, num_ranks: int, has_experts: bool, load_is_modelled: bool = False
    ) -> Band:
        """The band of an estimate for such a deployment; of several reasons the one that widens most."""
        kind: BandKind = "one GPU" if num_ranks == 1 else cluster.link
        if has_experts:
            kind = "experts"
        if cluster.gpu.name not in self.measured_gpus:
            kind = "unmeasured GPU"
        if load_is_modelled:
            kind = "modelled load"
        if num_ranks > min(cluster.gpus_per_host, MOST_RANKS_MEASURED):
            kind = "several hosts"
        return next(band for band in self.bands if band.kind == kind)

    def time_band(self, name: Literal["ttft", "tpot"], *, band: Band) -> TimeBand:
        """The band of a time; wider, and assumed, where that of the throughput is assumed."""
        found = self.time_bands[name]
        if band.rows:
            return found
        return TimeBand(low=found.low * _ASSUMED_WIDER[0], high=found.high * _ASSUMED_WIDER[1], rows=0)

    def scaled(self, factor: float) -> Calibration:
        """The same, with every throughput `factor` times as high."""
        return self.model_copy(update={"scale": self.scale * factor})


def _family(gpu: Gpu) -> str:
    return gpu.architecture.split()[0].lower()


@cache
def calibration() -> Calibration:
    """The one in the repository."""
    text = files("tpforge.plan").joinpath("calibration.toml").read_text(encoding="utf-8")
    return Calibration.model_validate(tomllib.loads(text))
