"""What the roofline cannot know, fitted to published measurements, and how far it was off on others.

It fits nothing: `benchmarks/planner.py` does, and writes calibration.toml.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from tpforge.plan.hardware.communication import LinkShares
from tpforge.plan.hardware.gpus import Cluster, Gpu
from tpforge.records import Record
from tpforge.runtime import Runtime

BandKind = Literal[
    "one GPU",
    "nvlink",
    "pcie",
    "pipeline",
    "experts",
    "under load",
    "under load, experts",
    "starved of cache",
    "other architecture",
    "older release",
    "unmeasured GPU",
    "modelled load",
    "several hosts",
]

_ASSUMED_WIDER = (0.75, 1.3)
MOST_RANKS_MEASURED = 8
"""No published row has more ranks."""
MOST_REQUESTS_MEASURED = 128
"""No row that was measured under a stated load has more requests at once."""
STARVED = 24
"""Requests below which a batch that the cache limits hangs on every GiB that the memory is wrong by."""
_FITTED_SINCE = (0, 17)
"""The first release that the estimates are fitted to."""


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
    prompts. vector_passes: times that the vectors of a layer pass through memory. layer_us, request_us:
    overheads of a layer of a step, and by runtime of a request of it. active_share: of the latter, what a
    pass of a pipeline costs for a request that runs in another part of the batch. wait_us: of an all-reduce
    of a step that reads prompts and so is no captured graph, for the slowest rank. exchange_us: of a layer
    that sends tokens to their experts, in which the ranks wait for each other.
    """

    flops: dict[str, float]
    other_flops: float
    bandwidth: dict[str, float]
    other_bandwidth: float
    blend: float
    kv_read: float
    attention_share: float
    vector_passes: float
    layer_us: float
    request_us: dict[Runtime, float]
    active_share: float
    wait_us: float
    exchange_us: float
    links: LinkShares
    first_token: FirstToken

    def flops_share(self, gpu: Gpu) -> float:
        """The share of the peak that matrix products reach on `gpu`, whatever they run on."""
        return self.flops.get(_family(gpu), self.other_flops)

    def bandwidth_share(self, gpu: Gpu) -> float:
        """The share of the memory rate that reading weights reaches on `gpu`."""
        return self.bandwidth.get("gddr" if gpu.gddr else _family(gpu), self.other_bandwidth)


class Band(Record):
    """Where the measured throughput lay, as a share of the estimate: 8 of 10 rows held out are within.

    `rows` is 0 where nothing was measured and the band is assumed.
    """

    kind: BandKind
    low: float
    high: float
    rows: int
    also: tuple[BandKind, ...] = ()
    """What else widened it."""

    @property
    def width(self) -> float:
        """The highest as a multiple of the lowest."""
        return self.high / self.low


@dataclass(frozen=True)
class Deployment:
    """What a band depends on: one engine, whether the load is light enough that such ones were measured.

    `is_starved`: the cache keeps the batch below STARVED. `is_of_other_architecture`: no family's, of
    whose kind no value was fitted.

    `release` is TensorRT-LLM's, where it is stated.
    """

    cluster: Cluster
    num_ranks: int
    pp_size: int = 1
    has_experts: bool = False
    load_is_modelled: bool = False
    load_is_light: bool = False
    is_starved: bool = False
    is_of_other_architecture: bool = False
    release: str | None = None


class Calibration(Record):
    """The fit, its bands, and the GPUs that measurements exist for.

    `scale` multiplies every throughput: 1, or what the user's own runs gave (see `scaled`).
    """

    fit: Fit
    bands: tuple[Band, ...]
    time_bands: dict[Literal["ttft"], TimeBand]
    measured_gpus: tuple[str, ...]
    scale: float = 1.0

    def band(self, deployment: Deployment) -> Band:
        """The band of an estimate for such a deployment: all that apply together, by the name of the widest.

        It claims no rows where one of them is assumed.
        """
        kinds = set(_kinds(deployment, measured_gpus=self.measured_gpus))
        found = [band for band in self.bands if band.kind in kinds]
        named = max(found, key=lambda band: (not band.rows, band.width))
        low, high = min(band.low for band in found), max(band.high for band in found)
        also = tuple(band.kind for band in found if band is not named)
        return named.model_copy(update={"low": low, "high": high, "also": also})

    def ttft_band(self, band: Band) -> TimeBand:
        """The band of the first token; wider, and assumed, where that of the throughput is assumed."""
        found = self.time_bands["ttft"]
        if band.rows:
            return found
        return TimeBand(low=found.low * _ASSUMED_WIDER[0], high=found.high * _ASSUMED_WIDER[1], rows=0)

    @staticmethod
    def tpot_band(band: Band) -> TimeBand:
        """The band of a later token: that of the throughput, turned round, since the batch is given."""
        return TimeBand(low=1 / band.high, high=1 / band.low, rows=band.rows)

    def scaled(self, factor: float) -> Calibration:
        """The same, with every throughput `factor` times as high."""
        return self.model_copy(update={"scale": self.scale * factor})


def _kinds(deployment: Deployment, *, measured_gpus: tuple[str, ...]) -> Iterator[BandKind]:
    """All that say something of the deployment."""
    cluster, num_ranks = deployment.cluster, deployment.num_ranks
    is_light = deployment.load_is_light
    if is_light:
        yield "under load, experts" if deployment.has_experts else "under load"
    elif deployment.has_experts:
        yield "experts"
    # Of pipelines and PCIe no row was measured under a light load.
    if deployment.pp_size > 1:
        yield "pipeline"
    elif num_ranks > 1 and cluster.link == "pcie":
        yield "pcie"
    elif not is_light and not deployment.has_experts:
        yield "one GPU" if num_ranks == 1 else "nvlink"
    if deployment.is_starved:
        yield "starved of cache"
    if deployment.is_of_other_architecture:
        yield "other architecture"
    if deployment.release is not None and _is_older(deployment.release):
        yield "older release"
    if cluster.gpu.name not in measured_gpus:
        yield "unmeasured GPU"
    if deployment.load_is_modelled:
        yield "modelled load"
    if num_ranks > min(cluster.gpus_per_host, MOST_RANKS_MEASURED):
        yield "several hosts"


def _is_older(release: str) -> bool:
    numbers = re.findall(r"\d+", release)[:2]
    return len(numbers) == 2 and (int(numbers[0]), int(numbers[1])) < _FITTED_SINCE


def _family(gpu: Gpu) -> str:
    return gpu.architecture.split()[0].lower()


@cache
def calibration() -> Calibration:
    """The one in the repository."""
    text = files("tpforge.plan.speed").joinpath("calibration.toml").read_text(encoding="utf-8")
    return Calibration.model_validate(tomllib.loads(text))
