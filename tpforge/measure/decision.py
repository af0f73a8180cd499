"""A decision with its record: what was asked, what was measured, what is recommended, and what if not.

It refuses to recommend what was never measured, and says where the numbers speak against a recommendation.
The questions that every record has to answer are in `checklist`; pages are made by `scripts.reports`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from tpforge.atomic import os_errors
from tpforge.errors import InputRefused, UsageError
from tpforge.measure.compare import Comparison, compare_runs, level_like, measured
from tpforge.measure.rows import Measured, Row
from tpforge.measure.run import Fact, Level, Run
from tpforge.records import Record

DECISION_NAME = "decision.json"
Status = Literal["done", "missing", "not needed"]


class ChecklistItem(Record):
    """A question of the checklist, whether it was seen to, and by what one can tell."""

    question: str
    status: Status
    evidence: str


class Limits(Record):
    """What a system has to keep; None is no limit. Latencies in ms, throughput in output tokens a second."""

    ttft_p95_ms: float | None = None
    itl_p95_ms: float | None = None
    request_latency_p95_ms: float | None = None
    min_tokens_per_second: float | None = None
    max_error_percent: float | None = None
    max_gpu_memory_gib: float | None = None


class Production(Record):
    """The load that is expected; None where nobody said."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    concurrency: int | None = None


class Request(Record):
    """What the person who decides says; the rest follows from the runs.

    `considered` are options that were thought of and not measured, each with its reason.
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
        conclusion += f". But the host was not equally busy at {busier} levels, from which a part may come"
    return f"{against}: {text}{conclusion}"


def _does_it_pay(rows: Sequence[Row]) -> str:
    verdicts = [row.verdict for row in rows]
    if "better" not in verdicts and "worse" in verdicts:
        return ". More ranks do not pay here: they cost throughput and gain none at any level"
    if "better" not in verdicts:
        return ". No gain from more ranks was shown"
    if "worse" in verdicts:
        return ". More ranks pay at some levels and cost at others"
    return ". More ranks gain throughput here"


def _of(comparison: Comparison, metric: str, statistic: str) -> list[Row]:
    return [row for row in comparison.rows if (row.metric, row.statistic) == (metric, statistic)]


def _counted(name: str, rows: Sequence[Row]) -> str:
    """``throughput is worse at 3 of 3 levels (-38 to -41 %)``."""
    parts = []
    for verdict in ("better", "worse", "undecided"):
        found = [row for row in rows if row.verdict == verdict]
        changes = sorted(change for row in found if (change := row.change_percent) is not None)
        if not found:
            continue
        span = f" ({changes[0]:+.0f} to {changes[-1]:+.0f} %)" if len(changes) > 1 else ""
        span = f" ({changes[0]:+.0f} %)" if len(changes) == 1 else span
        parts.append(f"{verdict} at {len(found)} of {len(rows)} levels{span}")
    return f"{name} is {', '.join(parts)}" if parts else ""


def speaks_against(recommended: Run, others: Sequence[Run], request: Request) -> tuple[str, ...]:
    """Where measured numbers contradict the recommendation: a dominating option, or a limit not kept."""
    found = []
    for other in others:
        comparison = compare_runs(recommended, other)
        rows = [
            *_of(comparison, "output_token_throughput", "avg"),
            *_of(comparison, "time_to_first_token", "p95"),
            *_of(comparison, "inter_token_latency", "p95"),
        ]
        verdicts = [row.verdict for row in rows]
        quality = [row.verdict for row in comparison.rows if row.section == "quality"]
        if "better" in verdicts and "worse" not in verdicts and "worse" not in quality:
            better = ", ".join(
                dict.fromkeys(f"{row.metric} at {row.level}" for row in rows if row.verdict == "better")
            )
            found.append(f"{other.label} is better ({better}) and in none of the compared metrics worse")
    return (*found, *broken_limits(recommended, request))


def levels_within(run: Run, limits: Limits) -> tuple[str, ...]:
    """The names of the levels at which a run keeps every limit."""
    return tuple(level.name for level in run.levels if all(kept for _, _, kept in _kept(level, limits)))


def broken_limits(run: Run, request: Request) -> tuple[str, ...]:
    """The limits that a run does not keep: at the expected concurrency, or, not knowing it, at any level."""
    levels, wanted = list(run.levels), request.production.concurrency
    if wanted is not None:
        levels = [level for level in levels if level.concurrency is not None and level.concurrency >= wanted][
            :1
        ]
        if not levels:
            return (f"{run.label} was not measured at the expected concurrency of {wanted}",)
    elif levels_within(run, request.limits):
        return ()
    return tuple(
        f"{run.label} does not keep {name}: {value:.4g} at {level.name}"
        for level in levels
        for name, value, is_kept in _kept(level, request.limits)
        if not is_kept
    )


def _kept(level: Level, limits: Limits) -> list[tuple[str, float, bool]]:
    """Each limit that can be looked at in a level: its name with the limit, the value, whether it is kept."""
    highest = (
        ("time_to_first_token", "p95", limits.ttft_p95_ms, "TTFT p95", "ms"),
        ("inter_token_latency", "p95", limits.itl_p95_ms, "ITL p95", "ms"),
        ("request_latency", "p95", limits.request_latency_p95_ms, "request latency p95", "ms"),
        ("request_error_rate", "avg", limits.max_error_percent, "failed requests", "%"),
    )
    found = []
    for metric, statistic, limit, name, unit in highest:
        summary = level.metrics.get(metric)
        value = getattr(summary, statistic) if summary else None
        if limit is not None and value is not None:
            found.append((f"{name} <= {limit:g} {unit}", value, value <= limit))
    speed = tokens_per_second(level)
    if limits.min_tokens_per_second is not None and speed is not None:
        wanted = limits.min_tokens_per_second
        found.append((f"throughput >= {wanted:g} tokens/s", speed.value, speed.value >= wanted))
    if limits.max_gpu_memory_gib is not None:
        for gpu in level.telemetry.gpus:
            if "memory_used" in gpu.series:
                used = gpu.series["memory_used"].max / 2**30
                most = limits.max_gpu_memory_gib
                found.append((f"memory of GPU {gpu.index} <= {most:g} GiB", used, used <= most))
    return found
