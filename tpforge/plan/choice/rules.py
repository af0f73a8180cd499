"""The rules that a plan is explained by: each looks at the options and says one thing, or nothing.

A rule has a name, so that a test and a reader can hold it to its word. It changes no choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from tpforge.plan.choice.case import Advice, Case, compared
from tpforge.plan.choice.rules_of_size import one_gpu, quantize_first, smaller_model
from tpforge.plan.memory.rank import rank_memory
from tpforge.plan.options.operating import above
from tpforge.plan.options.option import Ask, Option
from tpforge.plan.options.percentiles import Simulated
from tpforge.plan.speed.calibration import STARVED
from tpforge.quantization import find_format
from tpforge.shards.weights import Blueprint
from tpforge.units import GIB, counted

MUCH_COMMUNICATION = 0.25


def advise(
    chosen: Option,
    options: Sequence[Option],
    *,
    blueprint: Blueprint,
    ask: Ask,
    instead: Sequence[Option] = (),
    alternatives: Sequence[Blueprint] = (),
    simulated: Simulated | None = None,
) -> tuple[Advice, ...]:
    """What the rules say, in the order of the questions."""
    case = Case(chosen, options, blueprint, ask, instead, alternatives, simulated)
    found = [rule(case) for rule in RULES]
    return tuple(advice for advice in found if advice is not None)


def worth_of_tensor_parallelism(case: Case) -> Advice | None:
    """What the chosen ranks per replica cost or give against the fewest that work at that precision."""
    same, least = _same_precision(case), _fewest_ranks(case)
    most = max(same, key=lambda one: (one.mapping.tp_size, -one.mapping.pp_size))
    if least.mapping.world_size == case.chosen.mapping.world_size:
        if most.mapping.world_size == least.mapping.world_size:
            return None
        said = compared(most, case.chosen)
        return Advice("tensor-parallelism", "note", f"{most.label} would give {said}")
    if case.chosen.serves_rate and least.serves_rate:
        said = f"{case.chosen.label} gives {compared(case.chosen, least)} of {least.label}"
        return Advice("tensor-parallelism", "note", said)
    change = case.chosen.tokens_per_gpu / least.tokens_per_gpu - 1
    if least in _halves(case) and change < 0:
        # Doubling that loses is diminishing_returns' to say, as a warning.
        return None
    why = ""
    if least.speed is not None and least.speed.limit == "KV cache" and least.speed.batch < STARVED:
        why = f"; {least.label} is starved of KV cache ({counted(least.speed.batch, 'request')} per replica)"
    return Advice(
        "tensor-parallelism",
        "note",
        f"{case.chosen.label} gives {100 * change:+.0f} % tokens/s per GPU against {least.label}{why}",
    )


def slow_link(case: Case) -> Advice | None:
    """More than two ranks over PCIe, or any over the network."""
    option, tp_size = case.chosen, case.chosen.mapping.tp_size
    cluster = option.cluster.joined_for(tp_size)
    share = f"{_share(option):.0f} % of a step is communication"
    if tp_size > cluster.fast_group:
        hosts = "NVLink domains" if cluster.link == "nvlink" and tp_size <= cluster.gpus_per_host else "hosts"
        return Advice(
            "slow-link",
            "warning",
            f"tp={tp_size} crosses {hosts} of {counted(cluster.fast_group, 'GPU')}: {share}; keep tp within "
            "one and use pp between them",
        )
    if cluster.link == "pcie" and tp_size > 2:
        pairs = option.cluster.fast_group if option.cluster.link == "nvlink" else 0
        beyond = f", beyond the {pairs} that NVLink joins" if pairs else ""
        return Advice("slow-link", "warning", f"tp={tp_size} over PCIe{beyond}: {share}")
    if option.speed is not None and option.speed.communication_share > MUCH_COMMUNICATION:
        return Advice("slow-link", "warning", f"{_share(option):.0f} % of a step is communication")
    return None


def diminishing_returns(case: Case) -> Advice | None:
    """Adding GPUs lowers tokens/s per GPU."""
    half = _halves(case)
    if not half or case.chosen.tokens_per_gpu >= half[0].tokens_per_gpu:
        return None
    loss = 1 - case.chosen.tokens_per_gpu / half[0].tokens_per_gpu
    return Advice(
        "diminishing-returns",
        "warning",
        f"doubling tp to {case.chosen.mapping.tp_size} lowers tokens/s per GPU by {100 * loss:.0f} %",
    )


def starved_of_cache(case: Case) -> Advice | None:
    """The cache keeps the batch small, or requests wait."""
    speed, ask = case.chosen.speed, case.ask
    if speed is None or speed.limit != "KV cache":
        return None
    wanted = None if ask.load.concurrency is None else -(-ask.load.concurrency // case.chosen.replicas)
    if wanted is not None and wanted > speed.batch:
        return Advice(
            "kv-starvation",
            "warning",
            f"{wanted} requests per replica are asked for, the KV cache holds {speed.batch}: the others "
            f"wait, {speed.ttft_ms / case.chosen.scale / 1e3:.1f} s to the first token",
        )
    if speed.batch < STARVED:
        only = f"the KV cache holds only {speed.batch} requests per replica"
        return Advice("kv-starvation", "warning", only)
    return None


def near_capacity(case: Case) -> Advice | None:
    """A rate that the estimate bears, but not all of what its band holds possible."""
    option, rate, most = case.chosen, case.ask.load.requests_per_second, case.chosen.most_per_second
    if rate is None or most is None or option.band is None or rate <= most * option.band.low:
        return None
    low, high = most * option.band.low, most * option.band.high
    return Advice(
        "near-capacity",
        "warning",
        f"{rate:g} requests/s are {100 * rate / most:.0f} % of the {most:.3g} that it bears at most, and 8 "
        f"of 10 such estimates hold from {low:.3g} to {high:.3g}: beyond, the queue grows without end; add a "
        "replica",
    )


def unbounded_windows(case: Case) -> Advice | None:
    """Layers with a window keep tokens that they never read again, unless the runtime is told."""
    engine, tokens = case.chosen.engine, case.ask.load.request_tokens
    if engine is None or engine.settings.is_windowed:
        return None
    settings = replace(engine.settings, is_windowed=True)
    bounded = rank_memory(engine.shapes, gpu=engine.cluster.gpu, settings=settings).max_requests(tokens)
    held = engine.memory.max_requests(tokens)
    if bounded <= held:
        return None
    return Advice(
        "windows",
        "note",
        "layers with a sliding window keep all tokens unless kv_cache_config.max_attention_window is "
        "set: then "
        f"{bounded} requests per replica would fit, not {held} (compared with no measurement)",
    )


def tail_risk(case: Case) -> Advice | None:
    """Limits are kept by a mean request: p95 may break them, and bursts and mixed lengths raise it."""
    speed, ask, found = case.chosen.speed, case.ask, case.simulated
    if found is not None:
        limits = (("to the first token", found.ttft, ask.ttft_ms), ("a token", found.tpot, ask.tpot_ms))
        for what, wait, limit in limits:
            if limit is not None and wait.p95_ms > limit:
                return Advice(
                    "p95-risk",
                    "warning",
                    f"the mean request keeps {limit:g} ms {what}, p95 does not: "
                    f"{above(wait.p95_ms, limit)} ms simulated; plan for fewer requests at once, or with a "
                    "lower limit",
                )
    if speed is None or speed.batch < 2:
        return None
    return Advice(
        "p95-risk",
        "note",
        f"estimates are means of a steady load of equal requests: at {speed.batch} requests a "
        "replica each user gets "
        f"{1e3 / _tpot(case.chosen):.0f} tokens/s; bursts and mixed lengths raise p95, so measure it "
        "(tpforge bench)",
    )


def duplicated_heads(case: Case) -> Advice | None:
    """More ranks than KV heads hold the same cache several times."""
    heads, tp_size = case.blueprint.model.attention.num_kv_heads, case.chosen.mapping.tp_size
    whole = case.blueprint.model.attention.latent is not None or case.chosen.attention_dp
    if tp_size <= heads or whole:
        return None
    return Advice(
        "duplicated-heads",
        "warning",
        f"{heads} KV heads over tp={tp_size}: each is held {tp_size // heads} times, so the cache "
        "does not shrink",
    )


def coarse_precision(case: Case) -> Advice | None:
    """Fewer bits, of weights or of the cache alone, are a change of quality, too."""
    chosen, name = case.chosen, case.chosen.weight_format
    if name is None or case.blueprint.stored_format is not None:
        # A checkpoint that is published so changes nothing; a cache of fewer bits than its floats does.
        if chosen.kv_dtype == chosen.dtype.value:
            return None
        if chosen.kv_dtype == case.blueprint.stored_kv:
            return Advice(
                "quality",
                "note",
                f"the KV cache is in {chosen.kv_dtype} because the checkpoint declares it, and TensorRT-LLM "
                f"takes that by itself; --kv {chosen.dtype.value} plans another",
            )
        return Advice(
            "quality",
            "note",
            f"a KV cache in {chosen.kv_dtype} changes outputs: compare it with one in {chosen.dtype.value} "
            "on your own prompts before it is served (tpforge evaluate)",
        )
    bits = find_format(name).weight_bits
    level: Literal["note", "warning"] = "warning" if bits < 8 else "note"
    return Advice(
        "quality",
        level,
        f"{name} ({bits} bits) changes outputs: compare it with 16 bits on your own prompts, "
        "structured ones too, "
        "before it is served (tpforge evaluate)",
    )


def attention_data_parallelism(case: Case) -> Advice | None:
    """What upstream does with experts over several ranks: an option of one runtime, or what it gives."""
    chosen = case.chosen
    if case.blueprint.model.moe is None or chosen.mapping.tp_size == 1:
        return None
    if case.ask.runtime != "pytorch":
        return Advice(
            "attention-dp",
            "note",
            "with experts, attention data parallelism may be faster than tp: runtime pytorch has it; "
            "plan with --runtime pytorch",
        )
    others = [
        one
        for one in case.options
        if one.rejection is None
        and one.attention_dp is not chosen.attention_dp
        and (one.mapping.world_size, one.precision, one.kv_dtype)
        == (chosen.mapping.world_size, chosen.precision, chosen.kv_dtype)
    ]
    fastest = max(others, key=lambda one: (one.tokens_per_gpu, -_tpot(one)), default=None)
    if fastest is None:
        return None
    return Advice(
        "attention-dp", "note", f"{fastest.label} would give {compared(fastest, chosen)} (modelled)"
    )


def unproven_estimate(case: Case) -> Advice | None:
    """No measurement of this kind of GPU stands behind the estimate."""
    band = case.chosen.band
    if band is None or band.rows:
        return None
    what = case.chosen.cluster.gpu.title
    if band.kind == "several hosts":
        what = f"{case.chosen.mapping.world_size} ranks or several hosts"
    if band.kind == "modelled load":
        what = "drafted tokens or reused prefixes"
    return Advice(
        "unmeasured", "warning", f"no published throughput of {what} was compared: the band is assumed"
    )


def unsourced_memory(case: Case) -> Advice | None:
    """The GPU's usable memory is assumed."""
    gpu = case.chosen.cluster.gpu
    if gpu.memory_is_published:
        return None
    return Advice(
        "assumed-memory",
        "note",
        f"no source states what the driver shows of {gpu.title}'s {gpu.memory_gb:g} GB; "
        f"{gpu.memory_bytes / GIB:.1f} GiB are assumed",
    )


RULES: tuple[Callable[[Case], Advice | None], ...] = (
    one_gpu,
    quantize_first,
    smaller_model,
    worth_of_tensor_parallelism,
    slow_link,
    diminishing_returns,
    starved_of_cache,
    near_capacity,
    unbounded_windows,
    duplicated_heads,
    coarse_precision,
    tail_risk,
    attention_data_parallelism,
    unproven_estimate,
    unsourced_memory,
)


def _same_precision(case: Case) -> list[Option]:
    """The options that work with the weights and the cache of the chosen one, which is among them."""
    chosen = case.chosen
    return [
        one
        for one in case.options
        if one.rejection is None and (one.precision, one.kv_dtype) == (chosen.precision, chosen.kv_dtype)
    ]


def _halves(case: Case) -> list[Option]:
    """Those of half the chosen tp and as many stages."""
    chosen = case.chosen.mapping
    return [
        one
        for one in _same_precision(case)
        if (2 * one.mapping.tp_size, one.mapping.pp_size) == (chosen.tp_size, chosen.pp_size)
    ]


def _fewest_ranks(case: Case) -> Option:
    return min(_same_precision(case), key=lambda one: (one.mapping.world_size, one.mapping.pp_size))


def _tpot(option: Option) -> float:
    return option.speed.tpot_ms / option.scale if option.speed else float("nan")


def _share(option: Option) -> float:
    return 100 * option.speed.communication_share if option.speed else float("nan")
