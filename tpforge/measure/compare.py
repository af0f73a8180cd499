"""Two runs side by side: every metric with its interval and a verdict, and which variables changed.

A verdict comes from repeats: Welch's interval of the difference of means, and "undecided" where that holds
zero or where there are not two repeats of each. It recommends nothing; `decision` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Literal

from tpforge import __version__
from tpforge.errors import UsageError
from tpforge.measure.cost import cost_per_million_tokens
from tpforge.measure.metrics import HIGHER_IS_BETTER, LOWER_IS_BETTER
from tpforge.measure.prompts import is_same_mix
from tpforge.measure.risks import find_risks
from tpforge.measure.rows import Measured, Row, Section, Verdict, missing_side
from tpforge.measure.run import Level, Prediction, Run, SeriesSummary
from tpforge.measure.samples import MetricSummary, Statistic
from tpforge.measure.score_rows import quality_rows
from tpforge.measure.statistics import difference_interval
from tpforge.measure.variables import Variables, compare_variables
from tpforge.records import Record

CONFIDENCE = 0.95
"""Of the intervals and verdicts; the intervals of a run have the same."""

COMPARED: tuple[tuple[str, tuple[Statistic, ...]], ...] = (
    ("output_token_throughput", ("avg",)),
    ("request_throughput", ("avg",)),
    ("goodput", ("avg",)),
    ("time_to_first_token", ("avg", "p95")),
    ("inter_token_latency", ("avg", "p95")),
    ("inter_chunk_latency", ("p99",)),
    ("request_latency", ("avg", "p95")),
    ("request_error_rate", ("avg",)),
)
"""The metrics of a comparison and their statistics, in the order of its tables."""

GPU_MEMORY = "gpu_memory_used"
_ROUNDING = 1e-9
"""Of a value: constant repeats have no spread, and a rounding error must not become a verdict."""

_UNEVEN_HOST = 1.3
"""A load average that differs by more than this factor is pointed out."""


class Predicted(Record):
    """What a plan expected of a level beside what was measured; never one column."""

    run: str
    level: str
    metric: str
    prediction: Prediction
    measured: Measured


class Comparison(Record):
    """A candidate against the baseline.

    `busier_host` names the levels during which the machine was busier for one of the runs than for the other.
    """

    baseline: str
    candidate: str
    variables: Variables
    rows: tuple[Row, ...]
    risks: tuple[str, ...]
    predicted: tuple[Predicted, ...]
    notes: tuple[str, ...]
    busier_host: tuple[str, ...] = ()

    def find(self, metric: str, statistic: str = "avg", *, level: str | None = None) -> Row | None:
        """The row of a metric, at a level where it has one."""
        wanted = (metric, statistic, level)
        return next((row for row in self.rows if (row.metric, row.statistic, row.level) == wanted), None)


class ComparisonSet(Record):
    """The content of comparison.json: every candidate against the first run."""

    schema_version: Literal[1] = 1
    tpforge_version: str
    confidence: float = CONFIDENCE
    prices_per_hour: dict[str, float]
    comparisons: tuple[Comparison, ...]


def compare_all(runs: Sequence[Run], *, prices: Mapping[str, float]) -> ComparisonSet:
    """Every run against the first.

    Raises:
        UsageError: fewer than two runs were given.
    """
    if len(runs) < 2:
        raise UsageError("a comparison needs at least two runs: the baseline, then the candidates")
    baseline, *candidates = runs
    return ComparisonSet(
        tpforge_version=__version__,
        prices_per_hour=dict(prices),
        comparisons=tuple(compare_runs(baseline, candidate, prices=prices) for candidate in candidates),
    )


def compare_runs(baseline: Run, candidate: Run, *, prices: Mapping[str, float] | None = None) -> Comparison:
    """Every metric that both, or either, measured; `prices` has the price of an hour by the id of a run.

    Raises:
        UsageError: both are the same run.
    """
    if baseline.id == candidate.id:
        raise UsageError(f"{baseline.id}: is compared with itself; give two different runs")
    levels = [
        (level, other)
        for level in baseline.levels
        if (other := level_like(candidate, level)) is not None
    ]  # fmt: skip
    rows: list[Row] = []
    for level, other in levels:
        rows += _speed_rows(level, other)
        rows += _cost_rows(level, other, (baseline.id, candidate.id), prices or {})
        rows += _memory_rows(level, other)
    rows += quality_rows(baseline, candidate)
    variables = compare_variables(baseline, candidate)
    return Comparison(
        baseline=baseline.id,
        candidate=candidate.id,
        variables=variables,
        rows=tuple(rows),
        risks=find_risks(rows, variables),
        predicted=tuple(
            item for run in (baseline, candidate) for level in run.levels for item in _predicted(run, level)
        ),
        notes=tuple(_notes(baseline, candidate, levels, rows)),
        busier_host=tuple(ours.name for ours, other in levels if _uneven_hosts([(ours, other)])),
    )


def level_like(run: Run, level: Level) -> Level | None:
    """The level of a run that asked for the same load."""
    wanted = (level.concurrency, level.rate_per_s)
    same = [other for other in run.levels if (other.concurrency, other.rate_per_s) == wanted]
    return same[0] if same else None


def judge(
    first: Sequence[float], second: Sequence[float], *, lower_is_better: bool
) -> tuple[Verdict, tuple[float, float] | None, str]:
    """Whether `second` is better than `first`; the interval of their difference; why it is undecided."""
    interval = difference_interval(first, second, confidence=CONFIDENCE)
    if interval is None:
        return "undecided", None, "needs at least two repeats of each run"
    ends = (interval.low, interval.high)
    if abs(interval.mean) <= _ROUNDING * max(map(abs, (*first, *second))):
        return "undecided", ends, "no difference"
    if interval.low <= 0 <= interval.high:
        return "undecided", ends, "may be chance"
    return ("better" if (interval.high < 0) == lower_is_better else "worse"), ends, ""


def measured(summary: MetricSummary, statistic: Statistic) -> Measured | None:
    """A statistic as the mean over repeats with its interval; without repeats as it is over all requests."""
    repeats, interval = summary.repeats.get(statistic, ()), summary.intervals.get(statistic)
    if interval is not None:
        return Measured(value=interval.mean, low=interval.low, high=interval.high, n=interval.n)
    value = fmean(repeats) if repeats else getattr(summary, statistic)
    return None if value is None else Measured(value=value, n=max(1, len(repeats)))


def _speed_rows(level: Level, other: Level) -> list[Row]:
    rows = []
    for name, statistics in COMPARED:
        ours, theirs = level.metrics.get(name), other.metrics.get(name)
        if ours is None and theirs is None:
            continue
        for statistic in statistics:
            rows.append(_metric_row(level.name, name, statistic, (ours, theirs)))
    if level.mix and other.mix and not is_same_mix(level.mix, other.mix):
        # What a server was asked, and not how fast it is, may be all that differs.
        open_question = {"verdict": "undecided", "reason": "the runs asked the prompts in different mixes"}
        rows = [row.model_copy(update=open_question) for row in rows]
    return rows


def _metric_row(
    level: str,
    name: str,
    statistic: Statistic,
    pair: tuple[MetricSummary | None, MetricSummary | None],
) -> Row:
    unit = next(summary.unit for summary in pair if summary is not None)
    first, second = (summary.repeats.get(statistic, ()) if summary else () for summary in pair)
    sides = [measured(summary, statistic) if summary else None for summary in pair]
    assert name in LOWER_IS_BETTER | HIGHER_IS_BETTER
    return _judged_row(
        ("speed", level, name, statistic, unit),
        (sides[0], sides[1]),
        (first, second),
        lower_is_better=name in LOWER_IS_BETTER,
    )


def _judged_row(
    title: tuple[Section, str, str, str, str],
    sides: tuple[Measured | None, Measured | None],
    repeats: tuple[Sequence[float], Sequence[float]],
    *,
    lower_is_better: bool,
) -> Row:
    section, level, metric, statistic, unit = title
    verdict, ends, reason = judge(*repeats, lower_is_better=lower_is_better)
    if sides[0] is None or sides[1] is None:
        verdict, ends, reason = "undecided", None, f"not measured in the {missing_side(sides)}"
    return Row(
        section=section,
        level=level,
        metric=metric,
        statistic=statistic,
        unit=unit,
        baseline=sides[0],
        candidate=sides[1],
        difference_low=ends[0] if ends else None,
        difference_high=ends[1] if ends else None,
        lower_is_better=lower_is_better,
        verdict=verdict,
        reason=reason,
    )


def _cost_rows(level: Level, other: Level, ids: tuple[str, str], prices: Mapping[str, float]) -> list[Row]:
    """The cost of a million output tokens, where both runs have a price."""
    if not all(name in prices for name in ids):
        return []
    found = [one.metrics.get("output_token_throughput") for one in (level, other)]
    if found[0] is None or found[1] is None:
        return []
    costs = []
    for name, summary in zip(ids, found, strict=True):
        assert summary is not None
        speeds = [speed for speed in summary.repeats.get("avg", (summary.avg,)) if speed > 0]
        costs.append([cost_per_million_tokens(speed, price_per_hour=prices[name]) for speed in speeds])
    if not all(costs):
        return []
    sides = [Measured.of_repeats(values) for values in costs]
    return [
        _judged_row(
            ("cost", level.name, "cost_per_million_output_tokens", "avg", "currency"),
            (sides[0], sides[1]),
            (costs[0], costs[1]),
            lower_is_better=True,
        )
    ]


def _memory_rows(level: Level, other: Level) -> list[Row]:
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
        rows.append(
            Row(
                section="memory",
                level=level.name,
                metric=name,
                statistic="max",
                unit=either.unit,
                baseline=_readings(ours),
                candidate=_readings(theirs),
                lower_is_better=True,
                verdict=verdict,
                reason=reason,
            )
        )
    return rows


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


def fullest_gpu(level: Level) -> SeriesSummary | None:
    """The memory of the GPU that uses most of it: the one that runs out first."""
    found = [gpu.series["memory_used"] for gpu in level.telemetry.gpus if "memory_used" in gpu.series]
    return max(found, key=lambda series: series.max, default=None)


def _readings(series: SeriesSummary | None) -> Measured | None:
    if series is None:
        return None
    return Measured(value=series.max, low=series.min, high=series.max, n=series.count)


def _predicted(run: Run, level: Level) -> list[Predicted]:
    found = []
    for name, prediction in sorted(level.predicted.items()):
        summary = level.metrics.get(name)
        side = measured(summary, "avg") if summary else None
        if side is not None:
            found.append(
                Predicted(run=run.id, level=level.name, metric=name, prediction=prediction, measured=side)
            )
    return found


def _notes(
    baseline: Run,
    candidate: Run,
    levels: Sequence[tuple[Level, Level]],
    rows: Sequence[Row],
) -> list[str]:
    notes = []
    for run, matched in (
        (baseline, [ours for ours, _ in levels]),
        (candidate, [other for _, other in levels]),
    ):
        notes += [
            f"{run.id}: nothing to compare {level.name} with" for level in run.levels if level not in matched
        ]
        if run.interrupted:
            notes.append(f"{run.id}: was interrupted; it holds what was measured until then")
    notes += _uneven_hosts(levels)
    notes += _one_after_the_other(levels)
    if not levels:
        notes.append("the runs have no level of load in common")
    judged = [row for row in rows if row.section in ("speed", "cost") and row.difference_low is not None]
    if judged:
        notes.append(
            f"{len(judged)} differences were judged at {CONFIDENCE:.0%}: of equal runs, about "
            f"{len(judged) * (1 - CONFIDENCE):.1f} of them would be called better or worse by chance"
        )
    return notes


def _uneven_hosts(levels: Sequence[tuple[Level, Level]]) -> list[str]:
    """Where the machine was busier for one of the runs: that is a variable too, and nobody's choice."""
    notes = []
    for level, other in levels:
        loads = [one.telemetry.host.get("load_average") for one in (level, other)]
        if loads[0] is None or loads[1] is None:
            continue
        before, after = loads[0].avg, loads[1].avg
        if max(before, after) > _UNEVEN_HOST * max(min(before, after), 0.5):
            notes.append(
                f"{level.name}: the host's load average was {before:.1f} for the baseline and {after:.1f} "
                "for the candidate: a difference may come from that"
            )
    return notes


def _one_after_the_other(levels: Sequence[tuple[Level, Level]]) -> list[str]:
    """Where all repeats of one run came before the other's: then time is a variable too."""
    notes = []
    for level, other in levels:
        ours, theirs = (sorted(repeat.started for repeat in one.repeats) for one in (level, other))
        if min(len(ours), len(theirs)) < 2 or not (ours[-1] < theirs[0] or theirs[-1] < ours[0]):
            continue
        order = "after" if ours[-1] < theirs[0] else "before"
        notes.append(
            f"{level.name}: the candidate was measured {order} the baseline, not in turns with it "
            "(tpforge bench --join): where the machine's speed drifts, that looks like a difference"
        )
    return notes
