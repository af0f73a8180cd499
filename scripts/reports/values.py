"""How values, intervals, changes and verdicts are written, on the terminal and on pages alike."""

from __future__ import annotations

import math
from collections.abc import Mapping

from scripts.reports.axes import format_number
from tpforge.measure.comparison.rows import Measured, Row
from tpforge.measure.runs.run import Fact, Run
from tpforge.units import format_bytes

NAMES = {
    "time_to_first_token": "time to first token (TTFT)",
    "inter_token_latency": "inter-token latency (ITL)",
    "gpu_memory_used": "memory of the fullest GPU",
}
"""Names that say more than AIPerf's with blanks for underscores."""

UNITS = {"tokens/sec": "tokens/s", "requests/sec": "requests/s", "tokens/sec/user": "tokens/s/user"}


def metric_name(name: str, statistic: str = "") -> str:
    """``time to first token (TTFT), p95``; an average of a rate needs no saying."""
    words = NAMES.get(name, name.replace("_", " "))
    return f"{words}, {statistic}" if statistic else words


def row_name(row: Row) -> str:
    """A row's metric with its statistic where that matters."""
    latency = row.section == "speed" and row.unit == "ms"
    return metric_name(row.metric, row.statistic if latency else "")


def number(value: float, unit: str) -> str:
    """A value in its unit; bytes as people read them."""
    if math.isinf(value):
        return "infinite"
    if unit in ("bytes", "B"):
        return format_bytes(round(value))
    return f"{format_number(value)} {UNITS.get(unit, unit)}"


def measured_text(side: Measured | None, row: Row) -> str:
    """``412 ms [398, 431] n=3``; ``not measured``."""
    if side is None:
        return (
            "not measured"
            if row.metric not in ("perplexity_increase", "greedy_agreement")
            else "(it is the measure)"
        )
    interval = ""
    if side.low is not None and side.high is not None and row.section != "memory":
        interval = f" [{format_number(side.low)}, {format_number(side.high)}]"
    return f"{number(side.value, row.unit)}{interval} n={side.n}"


def change_text(row: Row) -> str:
    """``+12 % [+9, +15]``, ``+3.0 points [+1.2, +5.1]``, or a dash."""
    if row.change is None:
        return "-"
    if not math.isfinite(row.change):
        return "infinite"
    interval = ""
    if row.change_low is not None and row.change_high is not None:
        interval = f" [{_signed(row.change_low)}, {_signed(row.change_high)}]"
    unit = "points" if row.is_in_points and row.metric != "perplexity_increase" else "%"
    return f"{_signed(row.change)} {unit}{interval}"


def verdict_text(row: Row) -> str:
    """The verdict with the reason of an undecided one."""
    return f"{row.verdict}: {row.reason}" if row.reason else row.verdict


def fact_text(fact: Fact) -> str:
    """A fact's value, or why there is none."""
    if fact.value is None:
        return f"not read: {fact.unavailable_because}"
    if isinstance(fact.value, Mapping):
        return ", ".join(f"{key} {value}" for key, value in fact.value.items())
    if isinstance(fact.value, list):
        return ", ".join(map(str, fact.value))
    return str(fact.value)


def run_name(run: Run) -> str:
    """The label of a run, with its id where that says more."""
    says_it = run.label == run.id or run.label.endswith(f"({run.id})")
    return run.label if says_it else f"{run.label} ({run.id})"


def _signed(percent: float) -> str:
    rounded = round(percent, 1) + 0.0  # A zero has no sign.
    return f"{rounded:+.1f}" if abs(percent) < 10 else f"{percent:+.0f}"
