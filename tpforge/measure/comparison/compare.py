"""Two runs side by side: every metric with its interval and a verdict, and which variables changed.

What each metric says alone is `judging`, what all say together `verdicts`. It recommends nothing; `decision`
does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from tpforge import __version__
from tpforge.errors import UsageError
from tpforge.measure.comparison.judging import CONFIDENCE
from tpforge.measure.comparison.level_rows import (
    Judged,
    cost_rows,
    measured,
    memory_rows,
    speed_rows,
    turns_at,
)
from tpforge.measure.comparison.risks import find_risks
from tpforge.measure.comparison.rows import Measured, Row
from tpforge.measure.comparison.score_rows import quality_rows
from tpforge.measure.comparison.variables import Variables, compare_variables
from tpforge.measure.comparison.verdicts import DEFAULT_PRIMARY, Primary, with_verdicts
from tpforge.measure.runs.run import Level, Prediction, Run
from tpforge.records import Record

_UNEVEN_HOST = 1.3
"""A load average that differs by more than this factor is pointed out."""

ENOUGH_REPEATS = 3
"""With two, Student's t has one degree of freedom: half of a 95 % interval is 12.7 standard errors."""


class Predicted(Record):
    """What a plan expected of a level beside what was measured; never one column."""

    run: str
    level: str
    metric: str
    prediction: Prediction
    measured: Measured


class Comparison(Record):
    """A candidate against the baseline.

    `busier_host` names the levels during which the machine was busier for one of the runs than for the other,
    `unmatched_levels` those of the baseline that the candidate does not have.
    """

    baseline: str
    candidate: str
    variables: Variables
    rows: tuple[Row, ...]
    risks: tuple[str, ...]
    predicted: tuple[Predicted, ...]
    notes: tuple[str, ...]
    busier_host: tuple[str, ...] = ()
    unmatched_levels: tuple[str, ...] = ()

    def find(self, metric: str, statistic: str = "avg", *, level: str | None = None) -> Row | None:
        """The row of a metric, at a level where it has one."""
        wanted = (metric, statistic, level)
        return next((row for row in self.rows if (row.metric, row.statistic, row.level) == wanted), None)


class ComparisonSet(Record):
    """The content of comparison.json: every candidate against the first run."""

    schema_version: Literal[1] = 1
    tpforge_version: str
    confidence: float = CONFIDENCE
    primary: str = str(DEFAULT_PRIMARY)
    prices_per_hour: dict[str, float]
    comparisons: tuple[Comparison, ...]


def compare_all(
    runs: Sequence[Run], *, prices: Mapping[str, float], primary: Primary = DEFAULT_PRIMARY
) -> ComparisonSet:
    """Every run against the first; `primary` is the metric that was to decide.

    Raises:
        UsageError: fewer than two runs were given.
    """
    if len(runs) < 2:
        raise UsageError("a comparison needs at least two runs: the baseline, then the candidates")
    baseline, *candidates = runs
    return ComparisonSet(
        tpforge_version=__version__,
        primary=str(primary),
        prices_per_hour=dict(prices),
        comparisons=tuple(
            compare_runs(baseline, candidate, prices=prices, primary=primary) for candidate in candidates
        ),
    )


def compare_runs(
    baseline: Run,
    candidate: Run,
    *,
    prices: Mapping[str, float] | None = None,
    primary: Primary = DEFAULT_PRIMARY,
) -> Comparison:
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
    judged: list[Judged] = []
    for level, other in levels:
        judged += speed_rows(level, other)
        judged += cost_rows(level, other, (baseline.id, candidate.id), prices or {})
    rows = [*with_verdicts(judged, primary=primary)]
    rows += [row for level, other in levels for row in memory_rows(level, other)]
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
        notes=tuple(_notes(baseline, candidate, levels, rows, primary)),
        unmatched_levels=tuple(
            level.name for level in baseline.levels if level_like(candidate, level) is None
        ),
        busier_host=tuple(ours.name for ours, other in levels if _uneven_hosts([(ours, other)])),
    )


def level_like(run: Run, level: Level) -> Level | None:
    """The level of a run that asked for the same load."""
    wanted = (level.concurrency, level.rate_per_s)
    same = [other for other in run.levels if (other.concurrency, other.rate_per_s) == wanted]
    return same[0] if same else None


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
    primary: Primary,
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
    notes += _how_measured(levels)
    if not levels:
        notes.append("the runs have no level of load in common")
    num_judged = sum(row.p_value is not None for row in rows)
    if num_judged:
        notes.append(
            f"{num_judged} differences were judged together, {primary} first: of equal runs, 1 comparison in "
            f"{1 / (1 - CONFIDENCE):.0f} has a false verdict on speed"
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


def _how_measured(levels: Sequence[tuple[Level, Level]]) -> list[str]:
    """Few repeats; and where one run came before the other, or always its turn: time is a variable too."""
    notes = []
    for level, other in levels:
        turns = turns_at(level, other)
        fewest = min(turns.num_repeats)
        if fewest < 2:
            continue
        if fewest < ENOUGH_REPEATS:
            notes.append(
                f"{level.name}: n={fewest} repeats are too few for more than a very large difference; "
                "`tpforge bench --repeats N --dry-run` says what N repeats could see"
            )
        if not turns.are_taken:
            notes.append(
                f"{level.name}: one run was measured after the other, not in turns (tpforge bench --join): "
                "where the machine's speed drifts, that looks like a difference, so there is no verdict"
            )
        elif turns.keep_their_order:
            notes.append(
                f"{level.name}: one run was always first in its turn; let every second turn go backwards, "
                "then a steady drift cancels out"
            )
    return notes
