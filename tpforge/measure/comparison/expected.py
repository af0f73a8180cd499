"""What a plan expected of a measured run: the estimates of the option that the run's engine is.

Estimates and measurements stay apart: a prediction is a record of its own, beside the level that it is of.
"""

from __future__ import annotations

from collections.abc import Sequence

from tpforge.measure.runs.found_runs import FoundRun
from tpforge.measure.runs.run import Level, Prediction, Run
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
    """The run with the plan's estimates at the level that has the plan's load; or why it has none."""
    if run.environment["gpu"].value is None:
        return run, f"{run.id}: the plan is for {plan.gpu}, and this run had no GPU that could be read"
    option = find_option(run, plan)
    if option is None or option.speed is None:
        return run, f"{run.id}: the plan has no estimate for its tp, pp, weights and one replica"
    loads = {plan.concurrency, option.speed.batch}
    levels = tuple(
        level.model_copy(update={"predicted": _predictions(option, plan)})
        if level.concurrency in loads and level.concurrency is not None
        else level
        for level in run.levels
    )
    if levels == run.levels:
        return (
            run,
            f"{run.id}: has no level of {counted(option.speed.batch, 'request')} at once, as the plan has",
        )
    return run.model_copy(update={"levels": levels}), _other_lengths(run, plan)


def find_option(run: Run, plan: PlanRecord) -> OptionRecord | None:
    """The plan's option with the mapping and the weights of the run's engine."""
    engine = run.engine
    quantization = engine["quantization"].value
    weights = engine["precision"].value
    if isinstance(quantization, dict):
        weights = quantization.get("format")
    elif isinstance(quantization, str) and quantization != "none":
        weights = quantization
    wanted = (engine["tp"].value, engine["pp"].value, engine["moe_ep"].value or 1, 1, weights)
    for option in plan.options:
        if (option.tp, option.pp, option.moe_ep, option.replicas, option.weights) == wanted:
            return option
    return None


def _predictions(option: OptionRecord, plan: PlanRecord) -> dict[str, Prediction]:
    speed = option.speed
    assert speed is not None
    source = f"tpforge plan, {plan.gpu}, {plan.input_tokens} tokens in, {plan.output_tokens} out"
    return {
        "output_token_throughput": Prediction(
            value=speed.tokens_per_second, unit="tokens/sec", low=speed.low, high=speed.high, source=source
        ),
        "time_to_first_token": Prediction(value=speed.ttft_ms, unit="ms", source=source),
        "inter_token_latency": Prediction(value=speed.tpot_ms, unit="ms", source=source),
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
