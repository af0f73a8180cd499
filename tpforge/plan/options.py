"""Every way to deploy a model on a cluster, with its memory and speed, and why some do not work.

It lists and judges; `choose` ranks. Nothing is left out silently: what does not work is an option with a
reason.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from tpforge.dtypes import DType
from tpforge.errors import PlanError
from tpforge.plan.calibration import (
    MOST_REQUESTS_MEASURED,
    STARVED,
    Band,
    Calibration,
    Deployment,
    TimeBand,
)
from tpforge.plan.hardware import Cluster
from tpforge.plan.memory import KV_FRACTION, RankMemory, Settings, rank_memory
from tpforge.plan.operating import Limits, operate
from tpforge.plan.simulation import Request
from tpforge.plan.throughput import Engine, Load, Speed
from tpforge.quantization import find_format
from tpforge.quantization_gate import Question, judge, runtime_problems
from tpforge.runtime import Runtime
from tpforge.shards.mapping import Mapping
from tpforge.shards.weights import Blueprint, RankShapes, rank_shapes
from tpforge.trtllm.architectures import architecture_problems
from tpforge.units import format_bytes

FORMATS: tuple[str | None, ...] = (None, "fp8", "int8_wo", "nvfp4", "int4_awq")
"""What is tried unless the user names formats: floats, and the format of each width that needs least of
a GPU.
"""
MAX_BATCH_SIZE = 2048
_STATED = ("concurrency", "rate", "latency limit", "operating point")
"""Limits of a batch that memory is not: there are as many requests as wanted."""
Cause = Literal["sharding", "format", "memory", "length", "latency", "load"]


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


@dataclass(frozen=True)
class Rejection:
    """Why an option does not work."""

    cause: Cause
    reason: str


@dataclass(frozen=True)
class Option:
    """`replicas` equal engines on a cluster. What could not be computed for a rejected one is None."""

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
    def tokens_per_second(self) -> float:
        """Output tokens a second of all replicas; 0 when rejected before it was known."""
        return self.scale * self.replicas * self.speed.tokens_per_second if self.speed else 0.0

    @property
    def tokens_per_gpu(self) -> float:
        """Output tokens a second and GPU."""
        return self.tokens_per_second / self.num_gpus

    @property
    def cost_per_million(self) -> float | None:
        """Price of a million output tokens."""
        if self.price is None or not self.tokens_per_second:
            return None
        return self.price * self.num_gpus / (self.tokens_per_second * 3600) * 1e6


def list_options(
    blueprint: Blueprint, cluster: Cluster, ask: Ask, *, calibration: Calibration
) -> tuple[Option, ...]:
    """Every option, those that do not work among them, in a fixed order."""
    return tuple(_options(blueprint, cluster, ask, calibration=calibration))


def _options(
    blueprint: Blueprint, cluster: Cluster, ask: Ask, *, calibration: Calibration
) -> Iterator[Option]:
    dtype = _float_type(blueprint.model.dtype, cluster)
    for mapping, attention_dp in _divisions(blueprint, cluster, ask):
        base = Option(
            model=blueprint.name,
            cluster=cluster,
            mapping=mapping,
            replicas=max(1, cluster.num_gpus // mapping.world_size),
            weight_format=None,
            kv_dtype=dtype.value,
            dtype=dtype,
            price=ask.price,
            notes=blueprint.notes,
            attention_dp=attention_dp,
        )
        try:
            shapes = _shapes(blueprint, mapping=mapping, pad=ask.pad, attention_dp=attention_dp)
        except PlanError as error:
            yield replace(base, rejection=Rejection("sharding", str(error)))
            continue
        stored = (blueprint.stored_format,) if blueprint.stored_format else FORMATS
        for weight_format in ask.formats or stored:
            for kv_dtype in ask.kv_dtypes or (dtype.value, "fp8"):
                option = replace(base, weight_format=weight_format, kv_dtype=kv_dtype)
                yield _sized(option, shapes, ask, calibration=calibration)


def _sized(option: Option, shapes: RankShapes, ask: Ask, *, calibration: Calibration) -> Option:
    """With all the replicas that the GPUs hold, or with the fewest that work."""
    full = _judged(option, shapes, ask, calibration=calibration)
    if not ask.fewest_gpus or full.rejection is not None:
        return full

    def with_replicas(count: int) -> Option:
        return _judged(replace(option, replicas=count), shapes, ask, calibration=calibration)

    def works(count: int) -> bool:
        return runs_all(with_replicas(count), ask)

    counts = range(1, option.replicas + 1)
    fewer = bisect_left(counts, True, key=works)
    return full if fewer + 1 >= option.replicas else with_replicas(counts[fewer])


def runs_all(option: Option, ask: Ask) -> bool:
    """Whether the option works with all the requests that are asked for running at once."""
    wanted = ask.load.concurrency
    if option.rejection is not None or option.speed is None:
        return False
    return wanted is None or option.speed.batch * option.replicas >= wanted


def _float_type(dtype: DType, cluster: Cluster) -> DType:
    """The checkpoint's type, as 16 bits; bfloat16 needs SM80."""
    if dtype is DType.FLOAT16 or cluster.gpu.sm < 80:
        return DType.FLOAT16
    return DType.BFLOAT16


def _divisions(blueprint: Blueprint, cluster: Cluster, ask: Ask) -> Iterator[tuple[Mapping, bool]]:
    """Powers of two up to the GPUs, and their own number; pp only with what tp within a link leaves over.

    Experts also by number, and that with attention data parallelism, which runtime pytorch alone has.
    """
    powers = [1 << exponent for exponent in range(cluster.num_gpus.bit_length())]
    sizes = [size for size in sorted({*powers, cluster.num_gpus}) if size <= cluster.num_gpus]
    for tp_size in ask.tp_sizes or sizes:
        for pp_size in powers:
            if tp_size * pp_size > max(cluster.num_gpus, tp_size) or pp_size > blueprint.model.num_layers:
                continue
            yield Mapping(tp_size=tp_size, pp_size=pp_size), False
            moe = blueprint.model.moe
            if moe is not None and tp_size > 1 and moe.num_experts % tp_size == 0:
                by_number = Mapping(tp_size=tp_size, pp_size=pp_size, moe_ep_size=tp_size)
                yield by_number, False
                if ask.runtime == "pytorch":
                    yield by_number, True


def _shapes(blueprint: Blueprint, *, mapping: Mapping, pad: bool, attention_dp: bool) -> RankShapes:
    shapes = rank_shapes(blueprint, mapping=mapping, pad=pad, attention_dp=attention_dp)
    if objections := blueprint.objections(shapes.plan):
        raise PlanError("; ".join(objections))
    return shapes


def _judged(option: Option, shapes: RankShapes, ask: Ask, *, calibration: Calibration) -> Option:
    """The option with its memory and speed, or with the first reason against it."""
    if option.num_gpus > option.cluster.num_gpus:
        found, held = option.mapping.world_size, option.cluster.num_gpus
        return replace(option, rejection=Rejection("sharding", f"{found} ranks, but {held} GPUs"))
    problems, notes = _gate(option, shapes, ask)
    problems = (*_of_architecture(option, shapes, ask), *problems)
    if problems:
        return replace(option, rejection=Rejection("format", "; ".join(problems)))
    concurrency = ask.load.concurrency
    share = None if concurrency is None else -(-concurrency // option.replicas)
    settings = Settings(
        dtype=option.dtype,
        weight_format=option.weight_format,
        kv_dtype=option.kv_dtype,
        kv_fraction=ask.kv_fraction,
        max_batch_size=min(MAX_BATCH_SIZE, share or MAX_BATCH_SIZE),
    )
    memory = rank_memory(shapes, gpu=option.cluster.gpu, settings=settings)
    option = replace(option, memory=memory, notes=(*option.notes, *notes))
    if rejection := _no_room(memory, ask):
        return replace(option, rejection=rejection)
    rate = ask.load.requests_per_second
    engine = Engine(shapes, memory, option.cluster, settings)
    operation = operate(
        engine,
        replace(
            ask.load, concurrency=share, requests_per_second=None if rate is None else rate / option.replicas
        ),
        limits=Limits(ask.ttft_ms, ask.tpot_ms, ask.wished_tpot_ms),
        fit=calibration.fit,
        scale=calibration.scale,
    )
    speed = operation.speed
    band = calibration.band(
        Deployment(
            option.cluster,
            num_ranks=option.mapping.world_size,
            pp_size=option.mapping.pp_size,
            has_experts=shapes.model.moe is not None,
            load_is_modelled=ask.load.is_modelled,
            is_of_other_architecture=shapes.caches is not None,
            is_starved=speed.limit == "KV cache" and speed.batch < STARVED,
            load_is_light=speed.batch <= MOST_REQUESTS_MEASURED and speed.limit in _STATED,
            release=ask.version,
        )
    )
    option = replace(
        option,
        speed=speed,
        band=band,
        ttft_band=calibration.ttft_band(band),
        tpot_band=calibration.tpot_band(band),
        scale=calibration.scale,
        engine=engine,
    )
    if operation.cause is None or operation.reason is None:
        return option
    return replace(option, rejection=Rejection(operation.cause, operation.reason))


def _of_architecture(option: Option, shapes: RankShapes, ask: Ask) -> tuple[str, ...]:
    """Why the release or the GPU does not run the model, where one runtime alone does."""
    if ask.runtime != "pytorch" or shapes.caches is None:
        return ()
    return architecture_problems(
        shapes.model.architecture, runtime=ask.runtime, version=ask.version, sm=option.cluster.gpu.sm
    )


def _gate(option: Option, shapes: RankShapes, ask: Ask) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What the formats of weights and cache object to, and note."""
    own = option.dtype.value
    kv = None if option.kv_dtype == own else option.kv_dtype
    if option.weight_format is None:
        if kv is None:
            plain = Question("int8_wo", ask.runtime, None, ask.version, option.cluster.gpu.sm)
            return tuple(runtime_problems(plain)), ()
        # The gate judges a cache with a format of weights: INT8 weight-only loads wherever floats do.
        verdict = judge(Question("int8_wo", ask.runtime, kv, ask.version, option.cluster.gpu.sm))
        title = find_format("int8_wo").title
        return (
            tuple(problem for problem in verdict.problems if title not in problem),
            tuple(note for note in verdict.notes if title not in note),
        )
    verdict = judge(
        Question(
            option.weight_format,
            ask.runtime,
            kv,
            ask.version,
            option.cluster.gpu.sm,
            shapes.model.architecture,
            shapes.linears(),
        )
    )
    return verdict.problems, verdict.notes


def _no_room(memory: RankMemory, ask: Ask) -> Rejection | None:
    total = format_bytes(memory.gpu.memory_bytes)
    if not memory.fits:
        return Rejection(
            "memory",
            f"a rank needs {format_bytes(memory.fixed_bytes)} before any KV cache "
            f"(weights {format_bytes(memory.weight_bytes)}) and has {total}",
        )
    if memory.max_requests(max(ask.max_len, ask.load.request_tokens)) < 1:
        held = memory.longest_request(ask.max_len)
        return Rejection(
            "length",
            f"{format_bytes(memory.kv_bytes)} of KV cache hold one request of {held} tokens, not of "
            f"{max(ask.max_len, ask.load.request_tokens)}",
        )
    return None
