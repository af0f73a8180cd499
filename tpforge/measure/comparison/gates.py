"""Limits on how much worse a candidate may be, for a pipeline that has to say yes or no.

A limit is kept when the whole interval of the loss is within it, broken when the whole interval is beyond it,
else undecided; and where something was not measured in both it is that. Only kept limits pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tpforge.errors import InputRefused, RegressionFound
from tpforge.measure.comparison.compare import Comparison
from tpforge.measure.comparison.rows import Row
from tpforge.measure.comparison.score_rows import MIN_ITEMS

GATES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "throughput-drop": (("output_token_throughput", "avg"), ("request_throughput", "avg")),
    "p95-increase": (
        ("time_to_first_token", "p95"),
        ("inter_token_latency", "p95"),
        ("request_latency", "p95"),
    ),
    "error-increase": (("request_error_rate", "avg"),),
    "memory-increase": (("gpu_memory_used", "max"),),
    "cost-increase": (("cost_per_million_output_tokens", "avg"),),
    "quality-drop": (
        ("perplexity_increase", "avg"),
        ("structured_validity", "avg"),
        ("expected_text", "avg"),
    ),
}
"""A gate's name and the rows it looks at; a limit is in percent of the baseline's value.

Of failed requests and of quality, which are percentages themselves, the limit is in points.
"""


@dataclass(frozen=True)
class GateResult:
    """What the gates of a comparison found, a sentence each."""

    kept: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    undecided: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()


def check_gates(comparison: Comparison, limits: Mapping[str, float]) -> GateResult:
    """Every gate that has a limit, at every level of the baseline."""
    results = []
    for gate, limit in limits.items():
        rows = _gate_rows(comparison.rows, gate)
        results.append(check_rows(rows, gate, limit=limit, name=comparison.candidate))
        if gate != "quality-drop":
            missing = [f"{comparison.candidate}: --max-{gate} {limit:g}: {level} was not measured"
                       for level in comparison.unmatched_levels]  # fmt: skip
            results.append(GateResult(unchecked=tuple(missing)))
    return worst(results)


def check_rows(rows: Sequence[Row], gate: str, *, limit: float, name: str) -> GateResult:
    """One gate; `name` is what is judged."""
    found: dict[str, list[str]] = {"kept": [], "failures": [], "undecided": [], "unchecked": []}
    option = f"--max-{gate} {limit:g}"
    for row in rows:
        kind, said = _check(row, limit)
        found[kind].append(f"{name}: {option}: {_where(row)} {said}")
    if not rows:
        names = ", ".join(dict.fromkeys(metric for metric, _ in GATES[gate]))
        found["unchecked"].append(f"{name}: {option}: none of {names} was measured in both")
    return GateResult(**{kind: tuple(lines) for kind, lines in found.items()})


def _gate_rows(rows: Sequence[Row], gate: str) -> list[Row]:
    """The rows of a gate; where requests failed, latencies that count them as infinite."""
    adjusted = {(row.level, row.metric, row.statistic) for row in rows if row.metric.startswith("adj_")}
    found = []
    for row in rows:
        plain = row.metric.removeprefix("adj_")
        is_replaced = (row.level, f"adj_{row.metric}", row.statistic) in adjusted
        if (plain, row.statistic) in GATES[gate] and not is_replaced:
            found.append(row)
    return found


def _check(row: Row, limit: float) -> tuple[str, str]:
    """Which list of a GateResult a row belongs to, and what is said of it."""
    loss, ends = row.loss, row.loss_ends
    if row.candidate is None or loss is None or math.isnan(loss):
        return "unchecked", row.reason or "has no baseline to be compared with"
    if math.isinf(loss):
        return "failures", "is infinite, since too many requests failed"
    if row.section == "memory":
        return _check_readings(row, loss, limit)
    if ends is None:
        return "unchecked", row.reason or "has no interval"
    said = f"is worse by {loss:.1f}{_unit(row)} [{ends[0]:.1f}, {ends[1]:.1f}]"
    if ends[0] > limit:
        return "failures", said
    if ends[1] > limit:
        more = "items" if row.section == "quality" else "repeats in turns (tpforge bench --join)"
        return "undecided", f"{said}: the interval holds the limit; more {more} would decide it"
    if row.section == "quality":
        enough = row.candidate.n >= MIN_ITEMS or row.change == row.change_low == row.change_high
        return (
            ("kept", said)
            if enough
            else ("undecided", f"{said}, of {row.candidate.n} items; a claim needs {MIN_ITEMS}")
        )
    return ("kept", said) if row.p_value is not None else ("undecided", f"{said}: {row.reason}")


def _check_readings(row: Row, loss: float, limit: float) -> tuple[str, str]:
    """Memory: the most that was read, which has no interval."""
    said = f"is worse by {loss:.1f} %"
    if loss <= limit:
        return "kept", said
    return ("failures", said) if row.verdict == "worse" else ("undecided", f"{said}: {row.reason}")


def _unit(row: Row) -> str:
    return " points" if row.is_in_points and row.metric != "perplexity_increase" else " %"


def _where(row: Row) -> str:
    at = f" at {row.level}" if row.level else ""
    return f"{row.statistic} {row.metric}{at}"


def worst(results: Sequence[GateResult]) -> GateResult:
    """The results of several gates or comparisons as one."""
    return GateResult(
        tuple(line for result in results for line in result.kept),
        tuple(line for result in results for line in result.failures),
        tuple(line for result in results for line in result.undecided),
        tuple(line for result in results for line in result.unchecked),
    )


def apply_gates(comparisons: Sequence[Comparison], limits: Mapping[str, float]) -> GateResult:
    """The result of every gate, when all are kept.

    Raises:
        RegressionFound, InputRefused: as `refuse_unkept`.
    """
    result = worst([check_gates(comparison, limits) for comparison in comparisons])
    refuse_unkept(result)
    return result


def refuse_unkept(result: GateResult) -> None:
    """Refuse all but kept limits, and list what is wrong.

    Raises:
        RegressionFound: a loss is beyond its limit, or was not shown to be within it.
        InputRefused: a limit could not be checked, so that it must not look as if it had held.
    """
    parts = (
        ("worse than allowed:", result.failures),
        ("not shown to be within the limit:", result.undecided),
        ("a limit could not be checked:", result.unchecked),
    )
    said = "\n".join("\n  ".join([title, *lines]) for title, lines in parts if lines)
    if result.failures or result.undecided:
        raise RegressionFound(said)
    if result.unchecked:
        raise InputRefused(said)
