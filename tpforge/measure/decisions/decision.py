"""A decision with its record: what was asked, what was measured, what is recommended, and what if not.

It refuses to recommend what was never measured, and says where the numbers speak against a recommendation.
The questions that every record has to answer are in `checklist`; pages are made by `scripts.reports`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from tpforge.errors import InputRefused, UsageError
from tpforge.measure.comparison.compare import Comparison, compare_runs, level_like
from tpforge.measure.comparison.level_rows import measured
from tpforge.measure.comparison.limits import Limits, check_level, in_order, levels_within
from tpforge.measure.comparison.rows import Measured, Row
from tpforge.measure.comparison.verdicts import DEFAULT_PRIMARY, Primary
from tpforge.measure.runs.run import Fact, Level, Run
from tpforge.outputs.atomic import os_errors
from tpforge.records import Record
from tpforge.units import counted

DECISION_NAME = "decision.json"
Status = Literal["done", "missing", "not needed"]

_AHEAD_PERCENT = 5.0
"""A lead of less is not pointed out where it may be chance."""


class ChecklistItem(Record):
    """A question of the checklist, whether it was seen to, and by what one can tell."""

    question: str
    status: Status
    evidence: str


class Production(Record):
    """The load that is expected; None where nobody said."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    concurrency: int | None = None


class Request(Record):
    """What the person who decides says; the rest follows from the runs.

    `considered` are options that were thought of and not measured, each with its reason. `primary` is the
    metric that was to decide, as `verdicts.Primary` reads it.
    """

    question: str
    recommend: str
    fallback: str
    because: str
    trigger: str = ""
    bottleneck: str = ""
    complexity: str = ""
    limits: Limits = Limits()
    production: Production = Production()
    considered: tuple[str, ...] = ()
    primary: str = str(DEFAULT_PRIMARY)


class Scaling(Record):
    """How a run's throughput at a level compares with the baseline's, by the ranks that each used.

    `efficiency` is speedup / (ranks / the baseline's ranks): 1 is linear.
    """

    run: str
    level: str
    num_ranks: int
    speedup: float
    efficiency: float


class Choice(Record):
    """A run that was chosen, with the facts of its engine, by which the engine is known again."""

    run: str
    label: str
    engine: dict[str, Fact]


class Decision(Record):
    """The content of decision.json.

    `recommended` and `fallback` are None in records of before they were kept.
    """

    schema_version: Literal[1] = 1
    tpforge_version: str
    created: str
    request: Request
    baseline: str
    runs: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    scaling: tuple[Scaling, ...]
    findings: tuple[str, ...]
    against: tuple[str, ...]
    risks: tuple[str, ...]
    checklist: tuple[ChecklistItem, ...]
    prices_per_hour: dict[str, float] = Field(default_factory=dict)
    recommended: Choice | None = None
    fallback: Choice | None = None


def read_decision(path: Path) -> Decision:
    """The record in a decision.json, or in a folder that has one.

    Raises:
        InputRefused: it is no such record.
        EnvironmentUnusable: it cannot be read.
    """
    found = path / DECISION_NAME if path.is_dir() else path
    if not found.is_file():
        raise InputRefused(f"{path}: no such decision record; tpforge decide writes {DECISION_NAME}")
    with os_errors(found):
        data = found.read_bytes()
    try:
        return Decision.model_validate_json(data)
    except ValidationError as error:
        raise InputRefused.listing(
            f"{found}: not a record of tpforge decide:",
            (
                f"{'.'.join(map(str, problem['loc'])) or 'file'}: {problem['msg']}"
                for problem in error.errors()
            ),
        ) from error


def choice_of(run: Run) -> Choice:
    """A run as the choice that a record keeps."""
    return Choice(run=run.id, label=run.label, engine=run.engine)


def require_measured(run: Run, *, option: str) -> None:
    """Refuse a run that measured nothing.

    Raises:
        InputRefused: not one request of it was answered whole.
    """
    asked = sum(level.num_requests for level in run.levels)
    if not any(repeat.num_completed for level in run.levels for repeat in level.repeats):
        raise InputRefused(
            f"{option} {run.id}: was never measured: none of its {asked} requests was answered whole; "
            "run tpforge bench again"
        )


def check_choice(request: Request, recommended: Run, fallback: Run) -> None:
    """Refuse a recommendation that is none.

    Raises:
        UsageError: the fallback is the recommendation, or no reason was given.
        InputRefused: one of them was never measured.
    """
    if recommended.id == fallback.id:
        raise UsageError(f"--fallback {fallback.id}: is what is recommended; a fallback is something else")
    if not request.because.strip():
        raise UsageError("--because: give the reason for the recommendation")
    require_measured(recommended, option="--recommend")
    require_measured(fallback, option="--fallback")


def num_ranks(run: Run) -> int | None:
    """The ranks of a run's engine; None where its facts do not tell."""
    tp, pp = run.engine["tp"].value, run.engine["pp"].value
    if not isinstance(tp, int):
        return None
    return tp * (pp if isinstance(pp, int) else 1)


def scaling_of(baseline: Run, runs: Sequence[Run]) -> tuple[Scaling, ...]:
    """Speedup and efficiency of every run at every level that the baseline has too."""
    found = []
    ranks = num_ranks(baseline)
    for run in runs:
        count = num_ranks(run)
        if ranks is None or count is None:
            continue
        for level in baseline.levels:
            other = level_like(run, level)
            ours, theirs = tokens_per_second(level), tokens_per_second(other)
            if ours and theirs and ours.value > 0:
                speedup = theirs.value / ours.value
                efficiency = speedup / (count / ranks)
                found.append(
                    Scaling(
                        run=run.id, level=level.name, num_ranks=count, speedup=speedup, efficiency=efficiency
                    )
                )
    return tuple(found)


def tokens_per_second(level: Level | None) -> Measured | None:
    """A level's output token throughput."""
    summary = level.metrics.get("output_token_throughput") if level else None
    return measured(summary, "avg") if summary else None


def findings_of(comparison: Comparison, *, names: dict[str, str]) -> str:
    """What the numbers of one comparison say, in a sentence that follows from its verdicts alone."""
    throughput = _of(comparison, "output_token_throughput", "avg")
    tail = _of(comparison, "time_to_first_token", "p95")
    said = [_counted("throughput", throughput), _counted("p95 time to first token", tail)]
    parts = [part for part in said if part]
    changed = {change.name for change in comparison.variables.changed}
    conclusion = ""
    if changed and changed <= {"tp", "pp"} and throughput:
        conclusion = _does_it_pay(throughput)
    text = "; ".join(parts) or "nothing that both measured can be compared"
    against = f"{names[comparison.candidate]} against {names[comparison.baseline]}"
    busier = len(comparison.busier_host)
    if busier:
        levels = counted(busier, "level")
        conclusion += f". But the host was not equally busy at {levels}, from which a part may come"
    return f"{against}: {text}{conclusion}"


def _does_it_pay(rows: Sequence[Row]) -> str:
    verdicts = [row.verdict for row in rows]
    if "better" in verdicts and "worse" in verdicts:
        return ". More ranks pay at some levels and cost at others"
    if "better" in verdicts:
        return f". More ranks gain throughput at {verdicts.count('better')} of {len(rows)} levels"
    if verdicts.count("worse") == len(rows):
        return ". More ranks do not pay here: they cost throughput at every level"
    if "worse" in verdicts:
        return ". More ranks cost throughput at some levels, and a gain was shown at none"
    return ". No gain from more ranks was shown"


def _of(comparison: Comparison, metric: str, statistic: str) -> list[Row]:
    return [row for row in comparison.rows if (row.metric, row.statistic) == (metric, statistic)]


def _counted(name: str, rows: Sequence[Row]) -> str:
    """``throughput is worse at 3 of 3 levels (-38 to -41 %)``."""
    parts = []
    for verdict in ("better", "worse", "undecided"):
        found = [row for row in rows if row.verdict == verdict]
        changes = sorted(change for row in found if (change := row.change) is not None)
        if not found:
            continue
        span = f" ({changes[0]:+.0f} to {changes[-1]:+.0f} %)" if len(changes) > 1 else ""
        span = f" ({changes[0]:+.0f} %)" if len(changes) == 1 else span
        parts.append(f"{verdict} at {len(found)} of {len(rows)} levels{span}")
    return f"{name} is {', '.join(parts)}" if parts else ""


def speaks_against(
    recommended: Run, others: Sequence[Run], request: Request, *, baseline: Run | None = None
) -> tuple[str, ...]:
    """Where what was measured contradicts the recommendation.

    An option that is better, or whose values are though that may be chance; a limit that was not shown to
    be kept; nothing that was shown to be better than the baseline's.
    """
    primary = Primary.parse(request.primary)
    found = []
    for other in others:
        comparison = compare_runs(recommended, other, primary=primary)
        if said := _dominates(comparison, other) or _is_ahead(comparison, other, primary):
            found.append(said)
    if baseline is not None and baseline.id != recommended.id:
        rows = compare_runs(baseline, recommended, primary=primary).rows
        if all(row.verdict != "better" for row in rows):
            found.append(f"nothing of {recommended.label} was shown to be better than of {baseline.label}")
    return (*found, *unkept_limits(recommended, request))


def _dominates(comparison: Comparison, other: Run) -> str:
    rows = [
        *_of(comparison, "output_token_throughput", "avg"),
        *_of(comparison, "time_to_first_token", "p95"),
        *_of(comparison, "inter_token_latency", "p95"),
        *_of(comparison, "request_error_rate", "avg"),
    ]
    verdicts = [row.verdict for row in rows]
    quality = [row.verdict for row in comparison.rows if row.section == "quality"]
    if "better" not in verdicts or "worse" in (*verdicts, *quality):
        return ""
    better = ", ".join(
        dict.fromkeys(f"{row.metric} at {row.level}" for row in rows if row.verdict == "better")
    )
    return f"{other.label} is better ({better}) and was shown to be worse in none of the compared metrics"


def _is_ahead(comparison: Comparison, other: Run, primary: Primary) -> str:
    """The values of the primary metric, where they are clearly better at every level and undecided."""
    rows = [row for row in comparison.rows if primary.is_of(row)]
    gains = [-row.loss for row in rows if row.loss is not None]
    if not gains or len(gains) < len(rows) or min(gains) < _AHEAD_PERCENT:
        return ""
    if any(row.verdict == "worse" for row in comparison.rows):
        return ""
    span = f"{min(gains):.0f} to {max(gains):.0f} %" if len(gains) > 1 else f"{gains[0]:.0f} %"
    return f"{other.label} has the better {primary} at every level, by {span}, which may be chance"


def unkept_limits(run: Run, request: Request) -> tuple[str, ...]:
    """The limits that a run was not shown to keep, at the expected concurrency.

    Without one it is enough that there is a level at which all are kept.
    """
    levels, wanted = in_order(run), request.production.concurrency
    if wanted is not None:
        levels = [level for level in levels if level.concurrency is not None and level.concurrency >= wanted]
        if not levels:
            return (f"{run.label} was not measured at the expected concurrency of {wanted}",)
        levels = levels[:1]
    elif levels_within(run, request.limits):
        return ()
    return tuple(
        _LIMIT_SENTENCES[result.state].format(
            run=run.label, limit=result.limit, evidence=result.evidence, level=result.level
        )
        for level in levels
        for result in check_level(level, request.limits)
        if result.state != "kept"
    )


_LIMIT_SENTENCES = {
    "broken": "{run} does not keep {limit}: {evidence} at {level}",
    "undecided": "{run} was not shown to keep {limit}: {evidence} at {level}",
    "not measured": "whether {run} keeps {limit} was not measured at {level}: {evidence}",
}
