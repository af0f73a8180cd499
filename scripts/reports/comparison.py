"""comparison.md, comparison.html and the same on the terminal: what is said of a `ComparisonSet`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scripts.reports.axes import format_number
from scripts.reports.page import render_html, render_markdown
from scripts.reports.values import (
    change_text,
    measured_text,
    metric_name,
    number,
    row_name,
    run_name,
    verdict_text,
)
from tpforge.measure.comparison.compare import Comparison, ComparisonSet
from tpforge.measure.comparison.rows import Row
from tpforge.measure.comparison.variables import Change, Variables
from tpforge.measure.runs.run import Prediction, Run

HEADER = ("metric", "baseline", "candidate", "change", "verdict")


def comparison_html(found: ComparisonSet, runs: Mapping[str, Run]) -> str:
    """The page; it needs nothing beside itself."""
    return render_html("comparison.html.j2", _values(found, runs))


def comparison_markdown(found: ComparisonSet, runs: Mapping[str, Run]) -> str:
    """The same as Markdown."""
    return render_markdown("comparison.md.j2", _values(found, runs))


def cells(row: Row) -> tuple[str, str, str, str, str]:
    """A row as the texts under HEADER."""
    return (
        row_name(row),
        measured_text(row.baseline, row),
        measured_text(row.candidate, row),
        change_text(row),
        verdict_text(row),
    )


def groups(comparison: Comparison) -> list[tuple[str, list[Row]]]:
    """The rows by level of load; those of the whole run come last."""
    levels = list(dict.fromkeys(row.level for row in comparison.rows if row.level is not None))
    found = [(level, [row for row in comparison.rows if row.level == level]) for level in levels]
    whole = [row for row in comparison.rows if row.level is None]
    return [*found, ("quality", whole)] if whole else found


def change_line(change: Change) -> str:
    """``tp: 1 -> 2``, with what it follows from."""
    because = f"  (follows from {change.follows_from})" if change.follows_from else ""
    return f"{change.name}: {_short(change.before)} -> {_short(change.after)}{because}"


def unknown_lines(variables: Variables) -> list[str]:
    """The facts that could not be read, by reason: ``driver, gpu (no GPU)``."""
    names: dict[str, list[str]] = {}
    for item in variables.unknown:
        names.setdefault(item.because, []).append(item.name)
    return [f"{', '.join(found)} ({because})" for because, found in names.items()]


PREDICTED_HEADER = ("run", "level", "metric", "predicted", "by", "measured")


def predicted_lines(comparison: Comparison) -> list[tuple[str, ...]]:
    """Each prediction under PREDICTED_HEADER: predicted and measured are two columns, never one."""
    return [
        (
            item.run,
            item.level,
            metric_name(item.metric),
            _expected(item.prediction),
            item.prediction.source,
            number(item.measured.value, item.prediction.unit),
        )
        for item in comparison.predicted
    ]


def _values(found: ComparisonSet, runs: Mapping[str, Run]) -> dict[str, Any]:
    parts = []
    for comparison in found.comparisons:
        parts.append(
            {
                "title": f"{runs[comparison.candidate].label} against {runs[comparison.baseline].label}",
                "baseline": run_name(runs[comparison.baseline]),
                "candidate": run_name(runs[comparison.candidate]),
                "verdict": comparison.variables.verdict,
                "changes": [
                    change_line(c) for c in (*comparison.variables.changed, *comparison.variables.followed)
                ],
                "unknown": unknown_lines(comparison.variables),
                "risks": comparison.risks,
                "groups": [
                    (name, [(cells(row), row.verdict) for row in rows]) for name, rows in groups(comparison)
                ],
                "predicted": predicted_lines(comparison),
                "notes": comparison.notes,
            }
        )
    prices = {runs[name].label: f"{price:g}" for name, price in found.prices_per_hour.items()}
    return {
        "title": "Comparison of runs",
        "parts": parts,
        "header": HEADER,
        "predicted_header": PREDICTED_HEADER,
        "confidence": f"{found.confidence:.0%}",
        "prices": prices,
        "version": found.tpforge_version,
    }


def _expected(prediction: Prediction) -> str:
    band = ""
    if prediction.low is not None and prediction.high is not None:
        band = f" [{format_number(prediction.low)}, {format_number(prediction.high)}]"
    return number(prediction.value, prediction.unit) + band


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
