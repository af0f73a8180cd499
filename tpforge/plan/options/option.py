"""One way to deploy a model on a cluster, and what is wanted of it.

It computes nothing of memory or speed: `options` lists and judges, `choose` ranks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tpforge.dtypes import DType
from tpforge.plan.hardware.gpus import Cluster
from tpforge.plan.memory.rank import KV_FRACTION, RankMemory
from tpforge.plan.speed.calibration import Band, TimeBand
from tpforge.plan.speed.load import Load
from tpforge.plan.speed.simulation import Request
from tpforge.plan.speed.throughput import Engine, Speed
from tpforge.runtime import Runtime
from tpforge.shards.mapping import Mapping

Cause = Literal["sharding", "gpus", "format", "memory", "length", "latency", "load"]


@dataclass(frozen=True)
class Ask:
    """What is wanted of a deployment; None: no wish. `max_len` is the longest request it must hold.

    A limit without a load asks for the most requests at once that keep it; `wished_tpot_ms` is kept where it
    can be, without a load and limits. `fewest_gpus`: no more replicas than the load needs.
    `tp_sizes`, `formats` and `kv_dtypes` narrow the options; `price` is of an hour of one GPU, in
    `currency`. `requests` are those of a trace whose mean `load` is.
    """

    load: Load
    max_len: int
    runtime: Runtime = "tensorrt"
    version: str | None = None
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    wished_tpot_ms: float | None = None
    fewest_gpus: bool = False
    tp_sizes: tuple[int, ...] = ()
    formats: tuple[str | None, ...] = ()
    kv_dtypes: tuple[str, ...] = ()
    pad: bool = True
    kv_fraction: float = KV_FRACTION
    price: float | None = None
    currency: str = ""
    requests: tuple[Request, ...] = ()

    @property
    def states_load(self) -> bool:
        """Whether the number of requests at once follows from what is asked."""
        load = self.load
        stated = (load.concurrency, load.requests_per_second, self.ttft_ms, self.tpot_ms)
        return any(one is not None for one in stated)

    @property
    def limits_waits(self) -> bool:
        """Whether requests come at a rate, so that they queue, and may not wait for as long as they like."""
        limited = self.ttft_ms is not None or self.tpot_ms is not None
        return limited and self.load.requests_per_second is not None


@dataclass(frozen=True)
class Rejection:
    """Why an option does not work."""

    cause: Cause
    reason: str


@dataclass(frozen=True)
class Option:
    """`replicas` equal engines on a cluster. What could not be computed for a rejected one is None.

    `load` is what all of them together get; None: more than can run. `most_per_replica` are the requests a
    second that one bears at most, however slowly, where a rate is asked for.
    """

    model: str
    cluster: Cluster
    mapping: Mapping
    replicas: int
    weight_format: str | None
    kv_dtype: str
    dtype: DType
    rejection: Rejection | None = None
    memory: RankMemory | None = None
    speed: Speed | None = None
    band: Band | None = None
    ttft_band: TimeBand | None = None
    tpot_band: TimeBand | None = None
    scale: float = 1.0
    price: float | None = None
    notes: tuple[str, ...] = ()
    attention_dp: bool = False
    load: Load | None = None
    most_per_replica: float | None = None
    engine: Engine | None = field(default=None, repr=False, compare=False)

    @property
    def precision(self) -> str:
        """The format of the weights, or their float type."""
        return self.weight_format or self.dtype.value

    @property
    def num_gpus(self) -> int:
        """GPUs that are used."""
        return self.replicas * self.mapping.world_size

    @property
    def label(self) -> str:
        """``TP4 x 2 fp8, KV fp8``; ADP is attention data parallelism."""
        sizes = f"TP{self.mapping.tp_size}"
        sizes += f" PP{self.mapping.pp_size}" if self.mapping.pp_size > 1 else ""
        sizes += f" EP{self.mapping.moe_ep_size}" if self.mapping.moe_ep_size > 1 else ""
        sizes += " ADP" if self.attention_dp else ""
        times = f" x {self.replicas}" if self.replicas > 1 else ""
        return f"{sizes}{times} {self.precision}, KV {self.kv_dtype}"

    @property
    def num_running(self) -> int:
        """Requests at once of all replicas: no more than there are. 0 when rejected before it was known."""
        held = self.replicas * self.speed.batch if self.speed else 0
        asked = None if self.load is None else self.load.concurrency
        return held if asked is None else min(held, asked)

    @property
    def tokens_per_second(self) -> float:
        """Output tokens a second of all replicas, no more than a stated rate asks for; 0 when rejected
        before it was known.
        """
        if self.speed is None:
            return 0.0
        able = self.scale * self.num_running * self.speed.tokens_per_second / self.speed.batch
        if self.load is None or self.load.requests_per_second is None:
            return able
        return min(able, self.load.requests_per_second * self.load.output_tokens)

    @property
    def most_per_second(self) -> float | None:
        """The requests a second that all replicas bear at most, however slowly, where a rate is asked for."""
        return None if self.most_per_replica is None else self.replicas * self.most_per_replica

    @property
    def serves_rate(self) -> bool:
        """Whether requests come at a rate and all are answered, so that tokens/s are what is asked for."""
        return self.load is not None and self.load.requests_per_second is not None and self.rejection is None

    @property
    def tokens_between(self) -> tuple[float, float]:
        """Where 8 of 10 measurements of `tokens_per_second` would lie; what a rate asks for is the most."""
        if self.band is None:
            return self.tokens_per_second, self.tokens_per_second
        low, high = (self.tokens_per_second * share for share in (self.band.low, self.band.high))
        if self.load is None or self.load.requests_per_second is None:
            return low, high
        return low, min(high, self.load.requests_per_second * self.load.output_tokens)

    @property
    def tokens_per_gpu(self) -> float:
        """Output tokens/s per GPU."""
        return self.tokens_per_second / self.num_gpus

    @property
    def cost_per_million(self) -> float | None:
        """Price of a million output tokens."""
        if self.price is None or not self.tokens_per_second:
            return None
        return self.price * self.num_gpus / (self.tokens_per_second * 3600) * 1e6


def runs_all(option: Option, ask: Ask) -> bool:
    """Whether the option works with all the requests that are asked for running at once."""
    wanted = ask.load.concurrency
    if option.rejection is not None or option.speed is None:
        return False
    return wanted is None or option.speed.batch * option.replicas >= wanted
