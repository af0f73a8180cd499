"""Two measurements of one thing as one run, so that options can be measured in turns.

Options that are measured one after another differ by whatever the machine did meanwhile. Measured in turns,
and joined, their repeats lie side by side in time: a machine that drifts then widens every interval, and
makes no verdict. Nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Sequence

from tpforge.errors import InputRefused
from tpforge.measure.comparison.variables import compare_variables
from tpforge.measure.runs.metrics import count_errors, count_prompts, summarize
from tpforge.measure.runs.run import GpuTelemetry, Level, Run, SeriesSummary, Telemetry
from tpforge.measure.runs.samples import Sample

_MAY_DIFFER = frozenset({"url", "num_repeats", "seed"})
"""Of the workload: a server may be started again elsewhere, and every repeat has a seed of its own."""
_INCREASE = "increase"


def join_runs(
    first: Run, first_samples: Sequence[Sample], later: Run, later_samples: Sequence[Sample]
) -> tuple[Run, tuple[Sample, ...]]:
    """`first` with the repeats of `later` after its own, and the samples of both.

    Metrics are computed again from all samples, telemetry is that of both. The id, label and command stay
    those of `first`; a note says when each measurement began.

    Raises:
        InputRefused: they did not measure the same; names every difference.
    """
    refuse_different(first, later)
    _refuse_foreign(first, first_samples)
    others = {level.name: level for level in later.levels}
    places = {later.levels.index(others[level.name]): index for index, level in enumerate(first.levels)}
    samples = [*first_samples]
    for sample in later_samples:
        place = places[sample.level]
        num_before = len(first.levels[place].repeats)
        samples.append(sample.model_copy(update={"level": place, "repeat": sample.repeat + num_before}))
    levels = [
        _join_levels(level, others[level.name], [one for one in samples if one.level == index], first)
        for index, level in enumerate(first.levels)
    ]
    num_repeats = first.workload.num_repeats + later.workload.num_repeats
    joined = first.model_copy(
        update={
            "levels": tuple(levels),
            "workload": first.workload.model_copy(update={"num_repeats": num_repeats}),
            "notes": tuple(dict.fromkeys((*first.notes, *later.notes, _note(later)))),
        }
    )
    return joined, tuple(sorted(samples, key=lambda sample: (sample.level, sample.repeat, sample.index)))


def refuse_different(first: Run, later: Run) -> None:
    """Refuse runs that did not measure the same thing in the same way.

    Raises:
        InputRefused: names every difference.
    """
    variables = compare_variables(first, later)
    problems = [
        f"{change.section}, {change.name}: {change.before} in the run, {change.after} now"
        for change in (*variables.changed, *variables.followed)
        if change.section != "workload"
    ]
    before, after = (run.workload.model_dump(mode="json") for run in (first, later))
    problems += [
        f"workload, {name}: {before[name]} in the run, {after[name]} now"
        for name in before
        if before[name] != after[name] and name not in _MAY_DIFFER
    ]
    loads, loads_then = ({level.name for level in run.levels} for run in (first, later))
    if loads_then != loads:
        problems.append(f"loads: {', '.join(sorted(loads))} in the run, {', '.join(sorted(loads_then))} now")
    if first.interrupted or later.interrupted:
        problems.append("one of both was interrupted: measure it anew")
    if problems:
        raise InputRefused.listing(f"{first.id}: cannot be joined, it measured something else:", problems)


def _refuse_foreign(run: Run, samples: Sequence[Sample]) -> None:
    """Refuse requests of levels or repeats that the run does not have: one of both files was edited."""
    known = {
        (number, repeat) for number, level in enumerate(run.levels) for repeat in range(len(level.repeats))
    }
    if foreign := sorted({(one.level, one.repeat) for one in samples} - known):
        raise InputRefused.listing(
            f"{run.id}: samples.jsonl holds requests of parts that run.json does not have; measure it anew:",
            (f"level {level}, repeat {repeat}" for level, repeat in foreign),
        )


def _join_levels(level: Level, other: Level, samples: Sequence[Sample], run: Run) -> Level:
    repeats = (*level.repeats, *other.repeats)
    return level.model_copy(
        update={
            "repeats": repeats,
            "metrics": summarize(samples, repeats, slo=run.workload.slo),
            "errors": count_errors(samples),
            "mix": count_prompts(samples) if level.mix else {},
            "telemetry": _join_telemetry(level.telemetry, other.telemetry),
        }
    )


def _join_telemetry(first: Telemetry, later: Telemetry) -> Telemetry:
    others = {gpu.uuid: gpu for gpu in later.gpus}
    return Telemetry(
        gpus=tuple(_join_gpus(gpu, others[gpu.uuid]) if gpu.uuid in others else gpu for gpu in first.gpus),
        server=_join_all(first.server, later.server),
        host=_join_all(first.host, later.host),
        unavailable={**first.unavailable, **later.unavailable},
        notes=tuple(dict.fromkeys((*first.notes, *later.notes))),
    )


def _join_gpus(first: GpuTelemetry, later: GpuTelemetry) -> GpuTelemetry:
    return first.model_copy(
        update={
            "series": _join_all(first.series, later.series),
            "unavailable": {**first.unavailable, **later.unavailable},
        }
    )


def _join_all(first: dict[str, SeriesSummary], later: dict[str, SeriesSummary]) -> dict[str, SeriesSummary]:
    joined = {**later, **first}
    joined.update({name: _join_series(first[name], later[name]) for name in first.keys() & later.keys()})
    return dict(sorted(joined.items()))


def _join_series(first: SeriesSummary, later: SeriesSummary) -> SeriesSummary:
    """The summary of both: a counter's increases add up, a gauge's readings are pooled."""
    count = first.count + later.count
    if first.unit == _INCREASE:
        total = first.last + later.last
        return SeriesSummary(
            unit=_INCREASE, avg=total, min=0.0, max=total, first=0.0, last=total, count=count
        )
    return SeriesSummary(
        unit=first.unit,
        avg=(first.avg * first.count + later.avg * later.count) / count,
        min=min(first.min, later.min),
        max=max(first.max, later.max),
        first=first.first,
        last=later.last,
        count=count,
    )


def _note(later: Run) -> str:
    begun = min((repeat.started for level in later.levels for repeat in level.repeats), default="?")
    return f"joined: {later.workload.num_repeats} more of each load, begun at {begun}"
