"""Markdown tables as pages show them, and medians with their range. It measures nothing."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def head(*names: str) -> str:
    """The first two lines of a table."""
    return f"{line(*names)}\n|{'---|' * len(names)}"


def line(*cells: str) -> str:
    """A row."""
    return f"| {' | '.join(cells)} |"


def spread(values: Sequence[float], form: str, *, unit: str = "") -> str:
    """``median [smallest, largest] unit``."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:{form}} [{low:{form}}, {high:{form}}]{f' {unit}' if unit else ''}"
