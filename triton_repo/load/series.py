"""Numbers read again and again, and what a series of them comes to.

It reads nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean

from tpforge.measure.runs.run import SeriesSummary


def gauge(values: Sequence[float], *, unit: str) -> SeriesSummary:
    """The summary of a quantity that goes up and down; at least one value."""
    return SeriesSummary(
        unit=unit,
        avg=fmean(values),
        min=min(values),
        max=max(values),
        first=values[0],
        last=values[-1],
        count=len(values),
    )


def counter(values: Sequence[float]) -> SeriesSummary:
    """The summary of a quantity that only grows: how much it grew; a restart from zero counts from there."""
    increase = 0.0
    for before, after in pairwise(values):
        increase += after - before if after >= before else after
    return SeriesSummary(
        unit="increase", avg=increase, min=0.0, max=increase, first=0.0, last=increase, count=len(values)
    )


def rates(stamps: Sequence[float], totals: Sequence[float]) -> list[float]:
    """The growth of a counter a second, between each two readings."""
    pairs = pairwise(zip(stamps, totals, strict=True))
    return [(after - before) / (t1 - t0) for (t0, before), (t1, after) in pairs if t1 > t0]
