"""Gains that hide a loss: what looks like a win in one column and is a risk in another.

It looks at verdicts only, so that an undecided difference is neither a win nor a risk.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tpforge.measure.comparison.rows import Row
from tpforge.measure.comparison.variables import Variables

_THROUGHPUT = ("output_token_throughput", "request_throughput")
_LATENCIES = ("time_to_first_token", "inter_token_latency", "request_latency")
_CHANGES_ANSWERS = frozenset({"model", "revision", "quantization", "precision", "weights_sha256"})


def find_risks(rows: Sequence[Row], variables: Variables) -> tuple[str, ...]:
    """The risks of a comparison, each a sentence."""
    risks = []
    for level in dict.fromkeys(row.level for row in rows if row.level is not None):
        at = [row for row in rows if row.level == level]
        risks += _faster_for_whom(level, at)
        risks += _average_hides_tail(level, at)
    worse_quality = _named(row for row in rows if row.section == "quality" and row.verdict == "worse")
    smaller = _named(row for row in rows if row.section == "memory" and row.verdict == "better")
    faster = _named(row for row in rows if row.section in ("speed", "cost") and row.verdict == "better")
    if worse_quality and smaller:
        risks.append(
            f"memory is better ({smaller}), but quality is worse ({worse_quality}): a risk, not a win"
        )
    if worse_quality and faster and not smaller:
        risks.append(f"speed is better ({faster}), but quality is worse ({worse_quality}): a risk, not a win")
    return (*risks, *_quality_not_measured(rows, variables))


def _faster_for_whom(level: str, rows: Sequence[Row]) -> list[str]:
    if not any(row.metric in _THROUGHPUT and row.verdict == "better" for row in rows):
        return []
    tails = _named(
        row for row in rows if row.metric in _LATENCIES and row.statistic == "p95" and row.verdict == "worse"
    )
    errors = [row for row in rows if row.metric == "request_error_rate" and row.verdict == "worse"]
    risks = []
    if tails:
        risks.append(f"{level}: throughput is better, but {tails} is worse: a product risk, not a win")
    if errors:
        risks.append(f"{level}: throughput is better, but more requests fail: a risk, not a win")
    return risks


def _average_hides_tail(level: str, rows: Sequence[Row]) -> list[str]:
    verdicts = {(row.metric, row.statistic): row.verdict for row in rows}
    return [
        f"{level}: the average of {name} is better, but its p95 is worse: a product risk, not a win"
        for name in _LATENCIES
        if verdicts.get((name, "avg")) == "better" and verdicts.get((name, "p95")) == "worse"
    ]


def _quality_not_measured(rows: Sequence[Row], variables: Variables) -> list[str]:
    """Other weights give other answers, which someone has to have looked at."""
    changed = sorted({change.name for change in variables.changed} & _CHANGES_ANSWERS)
    measured = {row.metric for row in rows if row.section == "quality" and row.candidate is not None}
    if not changed:
        return []
    if not measured:
        return [f"{', '.join(changed)} changed and quality was not measured: run tpforge evaluate on both"]
    if "structured_validity" not in measured:
        return [f"{', '.join(changed)} changed and structured output was not tested again"]
    return []


def _named(rows: Iterable[Row]) -> str:
    return ", ".join(dict.fromkeys(_name(row) for row in rows))


def _name(row: Row) -> str:
    return row.metric if row.statistic in ("avg", "max") else f"{row.statistic} {row.metric}"
