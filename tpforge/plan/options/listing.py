"""Every way to deploy a model on a cluster, with its memory and speed, and why some do not work.

It lists and judges; `choose` ranks. Nothing is left out silently: what does not work is an option with a
reason.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache

from tpforge.dtypes import DType
from tpforge.errors import PlanError
from tpforge.plan.hardware.gpus import Cluster
from tpforge.plan.memory.rank import RankMemory, Settings, rank_memory
from tpforge.plan.options.operating import Limits, operate
from tpforge.plan.options.option import Ask, Option, Rejection, runs_all
from tpforge.plan.speed.calibration import (
    MOST_REQUESTS_MEASURED,
    STARVED,
    Calibration,
    Deployment,
)
from tpforge.plan.speed.load import Load
from tpforge.plan.speed.throughput import Engine, Speed
from tpforge.quantization import find_format
from tpforge.quantization_gate import Question, judge, runtime_problems
from tpforge.runtime import Runtime
from tpforge.shards.mapping import Mapping
from tpforge.shards.weights import Blueprint, RankShapes, rank_shapes
from tpforge.trtllm.architectures import architecture_problems
from tpforge.units import counted, format_bytes

FORMATS: tuple[str | None, ...] = (None, "fp8", "int8_wo", "nvfp4", "int4_awq")
"""What is tried unless the user names formats: floats, and the format of each width that needs least of
a GPU.
"""
MAX_BATCH_SIZE = 2048
_STATED = ("concurrency", "rate", "latency limit", "operating point")
"""Limits of a batch that memory is not: there are as many requests as wanted."""


def _every(option: Option) -> bool:
    return True


def list_options(
    blueprint: Blueprint,
    cluster: Cluster,
    ask: Ask,
    *,
    calibration: Calibration,
    wanted: Callable[[Option], bool] = _every,
) -> tuple[Option, ...]:
    """Every option, those that do not work among them, in a fixed order; of those to be judged the wanted."""
    return tuple(_options(blueprint, cluster, ask, calibration=calibration, wanted=wanted))


def _options(
    blueprint: Blueprint,
    cluster: Cluster,
    ask: Ask,
    *,
    calibration: Calibration,
    wanted: Callable[[Option], bool],
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
            load=ask.load,
        )
        try:
            shapes = _shapes(blueprint, mapping=mapping, pad=ask.pad, attention_dp=attention_dp)
        except PlanError as error:
            yield replace(base, rejection=Rejection("sharding", str(error)))
            continue
        stored = blueprint.stored_format
        declared_kv = () if blueprint.stored_kv is None else (blueprint.stored_kv,)
        for weight_format in ask.formats or ((stored,) if stored else FORMATS):
            for kv_dtype in ask.kv_dtypes or declared_kv or (dtype.value, "fp8"):
                option = replace(base, weight_format=weight_format, kv_dtype=kv_dtype)
                if stored not in (None, weight_format):
                    reason = f"the checkpoint holds {stored} and is run as that alone"
                    yield replace(option, rejection=Rejection("format", reason))
                    continue
                if wanted(option):
                    yield _sized(option, shapes, ask, calibration=calibration)


def _sized(option: Option, shapes: RankShapes, ask: Ask, *, calibration: Calibration) -> Option:
    """With all the replicas that the GPUs hold, or with the fewest that work."""
    full = _judged(option, shapes, ask, calibration=calibration)
    if not ask.fewest_gpus or full.rejection is not None:
        return full
    if not runs_all(full, ask):
        assert full.speed is not None
        most = full.speed.batch * full.replicas
        reason = f"runs {counted(most, 'request')} at once of the {ask.load.concurrency} asked for"
        return replace(full, rejection=Rejection("load", reason))

    def with_replicas(count: int) -> Option:
        return _judged(replace(option, replicas=count), shapes, ask, calibration=calibration)

    def works(count: int) -> bool:
        return runs_all(with_replicas(count), ask)

    counts = range(1, option.replicas + 1)
    fewer = bisect_left(counts, True, key=works)
    return full if fewer + 1 >= option.replicas else with_replicas(counts[fewer])


def with_replicas(option: Option, count: int, *, ask: Ask, calibration: Calibration) -> Option:
    """An option that fits in so many replicas instead, judged again."""
    assert option.engine is not None, "an option without room has no engine"
    again = replace(option, replicas=count, rejection=None)
    return _judged(again, option.engine.shapes, ask, calibration=calibration)


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
        return replace(
            option, rejection=Rejection("gpus", f"{counted(found, 'rank')}, but {counted(held, 'GPU')}")
        )
    problems, notes = _gate(option, shapes, ask)
    problems = (*_of_architecture(option, shapes, ask), *problems)
    if problems:
        return replace(option, rejection=Rejection("format", "; ".join(problems)))
    load = _load_of_a_replica(option, ask)
    settings = _settings(option, shapes, ask, concurrency=load.concurrency)
    memory = rank_memory(shapes, gpu=option.cluster.gpu, settings=settings)
    notes = tuple(dict.fromkeys((*option.notes, *notes)))
    if rejection := _no_room(memory, ask):
        return replace(option, memory=memory, notes=notes, rejection=rejection)
    engine = Engine(shapes, memory, option.cluster.joined_for(option.mapping.tp_size), settings)
    operation = operate(
        engine,
        load,
        limits=Limits(ask.ttft_ms, ask.tpot_ms, ask.wished_tpot_ms),
        fit=calibration.fit,
        scale=calibration.scale,
    )
    band = calibration.band(_deployment(option, shapes, ask, speed=operation.speed))
    cause, reason = operation.cause, operation.reason
    return replace(
        option,
        memory=memory,
        notes=notes,
        speed=operation.speed,
        band=band,
        ttft_band=calibration.ttft_band(band),
        tpot_band=calibration.tpot_band(band),
        scale=calibration.scale,
        engine=engine,
        most_per_replica=operation.most_per_second,
        rejection=None if cause is None or reason is None else Rejection(cause, reason),
    )


def _load_of_a_replica(option: Option, ask: Ask) -> Load:
    """The requests at once, and those a second, that one of the replicas gets of all."""
    if option.replicas == 1:
        return ask.load
    concurrency, rate = ask.load.concurrency, ask.load.requests_per_second
    return replace(
        ask.load,
        concurrency=None if concurrency is None else -(-concurrency // option.replicas),
        requests_per_second=None if rate is None else rate / option.replicas,
    )


def _settings(option: Option, shapes: RankShapes, ask: Ask, *, concurrency: int | None) -> Settings:
    """What the engine is run with: a batch as large as the load of a replica, up to MAX_BATCH_SIZE.

    No larger than the cache holds: buffers are allocated for all of it, however few requests run.
    """
    # One pass of a pipeline has a part of the batch.
    stages = option.mapping.pp_size
    least = Settings(
        dtype=option.dtype,
        weight_format=option.weight_format,
        kv_dtype=option.kv_dtype,
        kv_fraction=ask.kv_fraction,
        max_batch_size=1,
        max_seq_len=max(ask.max_len, ask.load.request_tokens),
        is_windowed=ask.runtime == "tensorrt",
        runtime=ask.runtime,
    )
    memory = rank_memory(shapes, gpu=option.cluster.gpu, settings=least)
    held = memory.max_requests(ask.load.request_tokens) // memory.cache_groups
    wanted = min(max(1, held), concurrency or MAX_BATCH_SIZE * stages)
    return replace(least, max_batch_size=min(MAX_BATCH_SIZE, -(-wanted // stages)))


def _deployment(option: Option, shapes: RankShapes, ask: Ask, *, speed: Speed) -> Deployment:
    """What the error band depends on."""
    return Deployment(
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


def _of_architecture(option: Option, shapes: RankShapes, ask: Ask) -> tuple[str, ...]:
    """Why the release or the GPU does not run the model, where one runtime alone does."""
    if ask.runtime != "pytorch" or shapes.caches is None:
        return ()
    return architecture_problems(
        shapes.model.architecture, runtime=ask.runtime, version=ask.version, sm=option.cluster.gpu.sm
    )


def _gate(option: Option, shapes: RankShapes, ask: Ask) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What the formats of weights and cache object to, and note."""
    kv = None if option.kv_dtype == option.dtype.value else option.kv_dtype
    sm = option.cluster.gpu.sm
    if option.weight_format is None:
        return _gate_of_floats(Question("int8_wo", ask.runtime, kv, ask.version, sm))
    return _gate_of_format(option.weight_format, kv, sm, ask.runtime, ask.version, shapes)


@lru_cache(maxsize=1024)
def _gate_of_floats(question: Question) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """By a format of weights, since the gate judges a cache with one: INT8 loads wherever floats do."""
    if question.kv_cache is None:
        return tuple(runtime_problems(question)), ()
    verdict, title = judge(question), find_format("int8_wo").title
    return (
        tuple(problem for problem in verdict.problems if title not in problem),
        tuple(note for note in verdict.notes if title not in note),
    )


@lru_cache(maxsize=4096)
def _gate_of_format(
    weight_format: str, kv: str | None, sm: int, runtime: Runtime, version: str | None, shapes: RankShapes
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Asked once for GPUs of one compute capability, and for all their numbers."""
    verdict = judge(
        Question(weight_format, runtime, kv, version, sm, shapes.model.architecture, shapes.linears)
    )
    return verdict.problems, verdict.notes


def _no_room(memory: RankMemory, ask: Ask) -> Rejection | None:
    total = format_bytes(memory.gpu.memory_bytes)
    if memory.free_bytes > 0 and not memory.fits:
        return Rejection(
            "memory",
            f"{memory.kv_fraction:g} of the {format_bytes(memory.free_bytes)} that are free hold no token of "
            "a KV cache",
        )
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
