"""A row of a comparison: one metric of two runs, what each measured, and the verdict.

It judges nothing; `compare` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Literal, Self

from tpforge.measure.statistics import mean_interval
from tpforge.records import Record

Verdict = Literal["better", "worse", "undecided"]
Section = Literal["speed", "cost", "memory", "quality"]


class Measured(Record):
    """A measured value and its interval, where there is one.

    Of speed and cost, `n` counts the repeats and the interval is that of their mean; of memory, `n` counts
    readings and the interval is their range; of quality, `n` counts items.
    """

    value: float
    low: float | None = None
    high: float | None = None
    n: int

    @classmethod
    def of_repeats(cls, values: Sequence[float]) -> Self:
        """The mean of repeats with its interval."""
        interval = mean_interval(values)
        if interval is None:
            return cls(value=fmean(values), n=len(values))
        return cls(value=interval.mean, low=interval.low, high=interval.high, n=interval.n)


class Row(Record):
    """One metric at one level of load (None: of the whole run), of the baseline and of the candidate.

    `difference_low` and `difference_high` bound candidate - baseline in the metric's unit. `reason` says
    why a verdict is undecided.
    """

    section: Section
    level: str | None = None
    metric: str
    statistic: str
    unit: str
    baseline: Measured | None
    candidate: Measured | None
    difference_low: float | None = None
    difference_high: float | None = None
    lower_is_better: bool
    verdict: Verdict
    reason: str = ""

    @property
    def change_percent(self) -> float | None:
        """By how much of the baseline's value the candidate's is larger; None where that has no meaning."""
        if self.baseline is None or self.candidate is None or self.baseline.value == 0:
            return None
        return 100 * (self.candidate.value / self.baseline.value - 1)

    @property
    def change_ends(self) -> tuple[float, float] | None:
        """The interval of the difference in percent of the baseline's value."""
        if self.difference_low is None or self.difference_high is None or self.change_percent is None:
            return None
        assert self.baseline is not None
        return (
            100 * self.difference_low / self.baseline.value,
            100 * self.difference_high / self.baseline.value,
        )


def missing_side(sides: tuple[object | None, object | None]) -> str:
    """Which of baseline and candidate is None."""
    return "baseline" if sides[0] is None else "candidate"
