"""What a plan expected of a measured run: the estimates of the option that the run's engine is.

Estimates and measurements stay apart: a prediction is a record of its own, beside the level that it is of.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tpforge.errors import InputRefused
from tpforge.measure.runs.engine_facts import formats_of
from tpforge.measure.runs.found_runs import FoundRun
from tpforge.measure.runs.run import Level, Prediction, Run
from tpforge.plan.hardware.gpus import find_gpu
from tpforge.plan.record import OptionRecord, PlanRecord
from tpforge.units import counted


def with_plan(runs: Sequence[FoundRun], plan: PlanRecord) -> tuple[tuple[FoundRun, ...], tuple[str, ...]]:
    """The runs with what the plan expected of them, and what it says nothing of."""
    found, notes = [], []
    for one in runs:
        run, note = with_predictions(one.run, plan)
        found.append(FoundRun(one.folder, run))
        notes += [note] if note else []
    return tuple(found), tuple(notes)


def with_predictions(run: Run, plan: PlanRecord) -> tuple[Run, str | None]:
    """The run with the plan's estimates at the level that has the plan's load; or why it has none.

    Of a plan of several replicas those of one, which the run is.
    """
    gpu = run.environment["gpu"].value
    if gpu is None:
        return run, f"{run.id}: the plan is for {plan.gpu}, and this run had no GPU that could be read"
    if (measured_on := _known_gpu(str(gpu))) not in (None, _known_gpu(plan.gpu)):
        return run, f"{run.id}: the plan is for {plan.gpu}, and this run was on {measured_on}"
    option = find_option(run, plan)
    if option is None or option.speed is None:
        return run, f"{run.id}: the plan has no estimate for its tp, pp, weights and KV cache"
    levels = tuple(
        level.model_copy(update={"predicted": _predictions(option, plan)})
        if _has_load(level, option, plan)
        else level
        for level in run.levels
    )
    if levels == run.levels:
        return run, f"{run.id}: has no level of {_load_of_a_replica(option, plan)}, as the plan has"
    return run.model_copy(update={"levels": levels}), _other_lengths(run, plan)


def _known_gpu(name: str) -> str | None:
    """The name in the table of what a driver or a plan calls a GPU; None for one that is not in it."""
    try:
        return find_gpu(name).name
    except InputRefused:
        return None


def _has_load(level: Level, option: OptionRecord, plan: PlanRecord) -> bool:
    """Whether a level has the requests that the plan gives one replica."""
    assert option.speed is not None
    if plan.requests_per_second is not None:
        rate = plan.requests_per_second / option.replicas
        return level.rate_per_s is not None and math.isclose(level.rate_per_s, rate, rel_tol=0.01)
    loads = {option.speed.batch} | ({plan.concurrency} if option.replicas == 1 else set())
    return level.concurrency is not None and level.concurrency in loads


def _load_of_a_replica(option: OptionRecord, plan: PlanRecord) -> str:
    assert option.speed is not None
    if plan.requests_per_second is not None:
        return f"{plan.requests_per_second / option.replicas:g} requests/s"
    return f"{counted(option.speed.batch, 'request')} at once"


def find_option(run: Run, plan: PlanRecord) -> OptionRecord | None:
    """The plan's option with the mapping and the formats of the run's engine.

    No run tells of attention data parallelism: an option without it comes first.
    """
    engine = run.engine
    weights, kv = formats_of(engine)
    sizes = (engine["tp"].value, engine["pp"].value, engine["moe_ep"].value or 1)
    wanted = (*sizes, weights or engine["precision"].value, kv)
    found = (
        option
        for option in plan.options
        if (option.tp, option.pp, option.moe_ep, option.weights, option.kv_cache) == wanted
    )
    return min(found, key=lambda option: option.attention_dp, default=None)


def _predictions(option: OptionRecord, plan: PlanRecord) -> dict[str, Prediction]:
    speed = option.speed
    assert speed is not None
    source = f"tpforge plan, {plan.gpu}, {plan.input_tokens} tokens in, {plan.output_tokens} out"
    share = 1 / option.replicas
    if speed.requests and plan.requests_per_second is None:
        # Of the requests at once of all replicas, those of the fullest one.
        share = speed.batch / speed.requests if option.replicas > 1 else 1.0

    def prediction(value: float, low: float, high: float, *, unit: str) -> Prediction:
        return Prediction(value=value, unit=unit, low=low, high=high, source=source)

    tokens = (share * one for one in (speed.tokens_per_second, speed.low, speed.high))
    return {
        "output_token_throughput": prediction(*tokens, unit="tokens/sec"),
        "time_to_first_token": prediction(speed.ttft_ms, speed.ttft_low_ms, speed.ttft_high_ms, unit="ms"),
        "inter_token_latency": prediction(speed.tpot_ms, speed.tpot_low_ms, speed.tpot_high_ms, unit="ms"),
    }


def _other_lengths(run: Run, plan: PlanRecord) -> str | None:
    """A warning when the plan was for other lengths than were measured: its estimates are of another load."""
    found = [
        (_mean(level, "input_sequence_length"), _mean(level, "output_sequence_length"))
        for level in run.levels
    ]
    lengths = next(((isl, osl) for isl, osl in found if isl is not None and osl is not None), None)
    if lengths is None:
        return None
    isl, osl = lengths
    if 0.8 <= isl / plan.input_tokens <= 1.25 and 0.8 <= osl / plan.output_tokens <= 1.25:
        return None
    return (
        f"{run.id}: the plan is for {plan.input_tokens} tokens in and {plan.output_tokens} out, "
        f"measured were {isl:.0f} and {osl:.0f} on average"
    )


def _mean(level: Level, metric: str) -> float | None:
    summary = level.metrics.get(metric)
    return summary.avg if summary is not None else None
