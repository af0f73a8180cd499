"""Limits on how much worse a candidate may be, for a pipeline that has to say yes or no.

A gate fails when the loss is larger than its limit and is no chance; a loss that is larger but undecided is
named, and where a metric was not measured twice on both sides the gate can't be checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tpforge.errors import InputRefused, RegressionFound
from tpforge.measure.compare import Comparison
from tpforge.measure.rows import Row

GATES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "throughput-drop": (("output_token_throughput", "avg"), ("request_throughput", "avg")),
    "p95-increase": (
        ("time_to_first_token", "p95"),
        ("inter_token_latency", "p95"),
        ("request_latency", "p95"),
    ),
    "memory-increase": (("gpu_memory_used", "max"),),
    "cost-increase": (("cost_per_million_output_tokens", "avg"),),
    "quality-drop": (
        ("perplexity_increase", "avg"),
        ("structured_validity", "avg"),
        ("expected_text", "avg"),
    ),
}
"""A gate's name and the rows it looks at; a limit is in percent of the baseline's value.

Of quality, whose scores are percentages themselves, the limit is in points.
"""


@dataclass(frozen=True)
class GateResult:
    """What the gates of a comparison found: losses, losses that may be chance, and what was not measured."""

    failures: tuple[str, ...]
    undecided: tuple[str, ...]
    unchecked: tuple[str, ...]


def check_gates(comparison: Comparison, limits: Mapping[str, float]) -> GateResult:
    """Every gate that has a limit."""
    failures: list[str] = []
    undecided: list[str] = []
    unchecked: list[str] = []
    for gate, limit in limits.items():
        wanted = GATES[gate]
        rows = [row for row in comparison.rows if (row.metric, row.statistic) in wanted]
        checked = [row for row in rows if _is_judged(row)]
        if not checked:
            names = ", ".join(dict.fromkeys(name for name, _ in wanted))
            unchecked.append(
                f"{comparison.candidate}: --max-{gate} {limit:g}: none of {names} was measured in both, "
                "with repeats"
            )
        for row in checked:
            loss = _loss(row)
            assert loss is not None
            if loss <= limit:
                continue
            said = (
                f"{comparison.candidate}: {_where(row)} is worse by {loss:.1f}{_unit(row)} (limit {limit:g})"
            )
            if row.verdict == "worse":
                failures.append(said)
            else:
                undecided.append(f"{said}, which is undecided: {row.reason}")
    return GateResult(tuple(failures), tuple(undecided), tuple(unchecked))


def _is_judged(row: Row) -> bool:
    """Whether the row can fail a gate: both measured, and speed more than once."""
    if row.candidate is None or _loss(row) is None:
        return False
    return row.section not in ("speed", "cost") or row.difference_low is not None


def _loss(row: Row) -> float | None:
    """By how much the candidate is worse: percent, or points of quality; negative when it is better."""
    if row.section == "quality":
        return _points_lost(row)
    change = row.change_percent
    if change is None:
        return None
    return change if row.lower_is_better else -change


def _points_lost(row: Row) -> float | None:
    assert row.candidate is not None
    if row.metric == "perplexity_increase":
        return row.candidate.value
    if row.baseline is None:
        return None
    difference = row.candidate.value - row.baseline.value
    return difference if row.lower_is_better else -difference


def _unit(row: Row) -> str:
    return " points" if row.section == "quality" and row.metric != "perplexity_increase" else " %"


def _where(row: Row) -> str:
    at = f" at {row.level}" if row.level else ""
    return f"{row.statistic} {row.metric}{at}"


def worst(results: Sequence[GateResult]) -> GateResult:
    """The results of several comparisons as one."""
    return GateResult(
        tuple(line for result in results for line in result.failures),
        tuple(line for result in results for line in result.undecided),
        tuple(line for result in results for line in result.unchecked),
    )


def apply_gates(comparisons: Sequence[Comparison], limits: Mapping[str, float]) -> GateResult:
    """The result of every gate; what may be chance is in it for the caller to say.

    Raises:
        RegressionFound: a loss is beyond its limit; all are listed.
        InputRefused: a gate could not be checked, so that it must not look as if it had held.
    """
    result = worst([check_gates(comparison, limits) for comparison in comparisons])
    if result.failures:
        raise RegressionFound("\n  ".join(["worse than allowed:", *result.failures]))
    if result.unchecked:
        raise InputRefused("\n  ".join(["a limit could not be checked:", *result.unchecked]))
    return result
