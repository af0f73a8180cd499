"""The rows of a comparison that are about one level of load: speed, failures, cost and memory.

It makes no verdict on speed; `verdicts` does, of all levels together. Memory has no repeats, and so its own
rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from tpforge.measure.comparison.judging import Judgement, judge_repeats, judge_shares
from tpforge.measure.comparison.rows import Measured, Row, Section, Verdict, change_between, missing_side
from tpforge.measure.comparison.turns import Turns, turns_of
from tpforge.measure.decisions.cost import cost_per_million_tokens
from tpforge.measure.runs.latencies import ADJUSTED
from tpforge.measure.runs.metrics import HIGHER_IS_BETTER, LOWER_IS_BETTER
from tpforge.measure.runs.prompts import is_same_mix
from tpforge.measure.runs.run import Level, SeriesSummary
from tpforge.measure.runs.samples import MetricSummary, Statistic

COMPARED: tuple[tuple[str, tuple[Statistic, ...]], ...] = (
    ("output_token_throughput", ("avg",)),
    ("request_throughput", ("avg",)),
    ("goodput", ("avg",)),
    ("time_to_first_token", ("avg", "p95")),
    ("inter_token_latency", ("avg", "p95")),
    ("inter_chunk_latency", ("p99",)),
    ("request_latency", ("avg", "p95")),
    *((f"adj_{name}", ("p95",)) for name in ADJUSTED),
    ("request_error_rate", ("avg",)),
)
"""The metrics of a comparison and their statistics, in the order of its tables."""

GPU_MEMORY = "gpu_memory_used"
ERRORS = "request_error_rate"
COST = "cost_per_million_output_tokens"
OTHER_MIX = "the runs asked the prompts in different mixes"
_ADJUSTED = "adj_"

Judged = tuple[Row, Judgement]


def turns_at(level: Level, other: Level) -> Turns:
    """The rounds of a level of two runs."""
    return turns_of(*([repeat.started for repeat in one.repeats] for one in (level, other)))


def speed_rows(level: Level, other: Level) -> list[Judged]:
    """Every metric that either level has, with what its repeats say."""
    turns, rows = turns_at(level, other), []
    for name, statistics in COMPARED:
        pair = tuple(_summary(one, name, beside) for one, beside in ((level, other), (other, level)))
        if pair == (None, None):
            continue
        rows += [_metric_row(level, other, name, statistic, turns) for statistic in statistics]
    if level.mix and other.mix and not is_same_mix(level.mix, other.mix):
        # What a server was asked, and not how fast it is, may be all that differs.
        return [(row, replace(found, p_value=None, reason=OTHER_MIX)) for row, found in rows]
    return rows


def cost_rows(level: Level, other: Level, ids: tuple[str, str], prices: Mapping[str, float]) -> list[Judged]:
    """The cost of a million output tokens, where both runs have a price."""
    summaries = [one.metrics.get("output_token_throughput") for one in (level, other)]
    if not all(name in prices for name in ids):
        return []
    costs = []
    for name, summary in zip(ids, summaries, strict=True):
        speeds = summary.repeats.get("avg", (summary.avg,)) if summary is not None else ()
        if not speeds or min(speeds) <= 0:
            return []
        costs.append([cost_per_million_tokens(speed, price_per_hour=prices[name]) for speed in speeds])
    sides = [Measured.of_repeats(values) for values in costs]
    found = judge_repeats(costs[0], costs[1], turns=turns_at(level, other))
    return [(_row("cost", level.name, COST, "avg", "currency", sides, lower_is_better=True), found)]


def memory_rows(level: Level, other: Level) -> list[Row]:
    """Memory has no repeats: a verdict needs readings of the two runs that do not even overlap."""
    rows = []
    for name, ours, theirs in _memory_series(level, other):
        either = ours or theirs
        if either is None:
            continue
        verdict: Verdict = "undecided"
        reason = "the readings of both overlap"
        if ours is None or theirs is None:
            reason = f"not measured in the {missing_side((ours, theirs))}"
        elif name != GPU_MEMORY:
            reason = "is of the whole machine, with all that runs there"
        elif theirs.max < ours.min or theirs.min > ours.max:
            verdict, reason = ("better" if theirs.max < ours.min else "worse"), ""
        sides = [_readings(series) for series in (ours, theirs)]
        row = _row("memory", level.name, name, "max", either.unit, sides, lower_is_better=True)
        rows.append(row.model_copy(update={"verdict": verdict, "reason": reason}))
    return rows


def measured(summary: MetricSummary, statistic: Statistic) -> Measured | None:
    """A statistic as it is over all requests, with its interval where there are repeats."""
    repeats, interval = summary.repeats.get(statistic, ()), summary.intervals.get(statistic)
    if interval is not None:
        return Measured(value=interval.mean, low=interval.low, high=interval.high, n=interval.n)
    value = fmean(repeats) if repeats else getattr(summary, statistic)
    return None if value is None else Measured(value=value, n=max(1, len(repeats)))


def fullest_gpu(level: Level) -> SeriesSummary | None:
    """The memory of the GPU that uses most of it: the one that runs out first."""
    found = [gpu.series["memory_used"] for gpu in level.telemetry.gpus if "memory_used" in gpu.series]
    return max(found, key=lambda series: series.max, default=None)


def _summary(level: Level, name: str, beside: Level) -> MetricSummary | None:
    """A metric of a level; where nothing failed but did in the other, the plain one is the adjusted one."""
    plain = name.removeprefix(_ADJUSTED)
    if name not in level.metrics and name in beside.metrics:
        return level.metrics.get(plain)
    return level.metrics.get(name)


def _metric_row(level: Level, other: Level, name: str, statistic: Statistic, turns: Turns) -> Judged:
    first, second = _summary(level, name, other), _summary(other, name, level)
    either = first or second
    assert either is not None
    assert name in LOWER_IS_BETTER | HIGHER_IS_BETTER
    sides = [measured(summary, statistic) if summary else None for summary in (first, second)]
    row = _row(
        "speed", level.name, name, statistic, either.unit, sides, lower_is_better=name in LOWER_IS_BETTER
    )
    if first is None or second is None or row.reason:
        return row, Judgement()
    if name == ERRORS:
        shares = (first.intervals["avg"], second.intervals["avg"])
        return row, judge_shares(level, other, shares, turns=turns)
    repeats = [summary.repeats.get(statistic, ()) for summary in (first, second)]
    return row, judge_repeats(repeats[0], repeats[1], turns=turns)


def _row(
    section: Section,
    level: str,
    metric: str,
    statistic: str,
    unit: str,
    sides: Sequence[Measured | None],
    *,
    lower_is_better: bool,
) -> Row:
    first, second = sides
    missing = f"not measured in the {missing_side((first, second))}" if None in sides else ""
    if first is None and second is None:
        missing = "not measured in either: too few requests tell it"
    return Row(
        section=section,
        level=level,
        metric=metric,
        statistic=statistic,
        unit=unit,
        baseline=first,
        candidate=second,
        change=change_between(first, second, unit=unit),
        lower_is_better=lower_is_better,
        verdict="undecided",
        reason=missing,
    )


def _memory_series(
    level: Level, other: Level
) -> list[tuple[str, SeriesSummary | None, SeriesSummary | None]]:
    """The fullest GPU, and every reading of the host's memory."""
    series = [(GPU_MEMORY, fullest_gpu(level), fullest_gpu(other))]
    ours, theirs = level.telemetry.host, other.telemetry.host
    for name in sorted(ours.keys() | theirs.keys()):
        if "memory" in name:
            series.append((f"host {name}", ours.get(name), theirs.get(name)))
    return series


def _readings(series: SeriesSummary | None) -> Measured | None:
    if series is None:
        return None
    return Measured(value=series.max, low=series.min, high=series.max, n=series.count)
