"""A row of a comparison: one metric of two runs, what each measured, and the verdict.

It judges nothing; `compare` does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Literal, Self

from pydantic import ConfigDict

from tpforge.measure.intervals import positive_interval
from tpforge.records import Record

Verdict = Literal["better", "worse", "undecided"]
Section = Literal["speed", "cost", "memory", "quality"]


class Measured(Record):
    """A measured value and its interval, where there is one.

    Of speed and cost, `n` counts the repeats and the interval is that of their mean; of memory, `n` counts
    readings and the interval is their range; of quality, `n` counts items.
    """

    model_config = ConfigDict(ser_json_inf_nan="strings", allow_inf_nan=True)

    value: float
    low: float | None = None
    high: float | None = None
    n: int

    @classmethod
    def of_repeats(cls, values: Sequence[float]) -> Self:
        """The mean of repeats with its interval, on a logarithmic scale."""
        mean = fmean(values)
        interval = positive_interval(mean, values)
        if interval is None:
            return cls(value=mean, n=len(values))
        return cls(value=mean, low=interval.low, high=interval.high, n=interval.n)


class Row(Record):
    """One metric at one level of load (None: of the whole run), of the baseline and of the candidate.

    `change` is by how many percent the candidate's value is above the baseline's, of rounds the geometric
    mean of their ratios, with its 95 % interval; of what is a percentage itself it is in points. `p_value` is
    that of the row alone, the verdict that of all rows together. `smallest_change` is what the measurement
    would see in 8 of 10 cases, where it was judged by rounds. `reason` says why a verdict is undecided.
    """

    model_config = ConfigDict(ser_json_inf_nan="strings", allow_inf_nan=True)

    section: Section
    level: str | None = None
    metric: str
    statistic: str
    unit: str
    baseline: Measured | None
    candidate: Measured | None
    change: float | None = None
    change_low: float | None = None
    change_high: float | None = None
    p_value: float | None = None
    smallest_change: float | None = None
    lower_is_better: bool
    verdict: Verdict
    reason: str = ""

    @property
    def is_in_points(self) -> bool:
        """Whether the change is in points, since the values are percentages."""
        return self.unit == "%"

    @property
    def loss(self) -> float | None:
        """By how much the candidate is worse, in percent or points; negative where it is better."""
        return None if self.change is None else self._as_loss(self.change)

    @property
    def loss_ends(self) -> tuple[float, float] | None:
        """The interval of the loss."""
        if self.change_low is None or self.change_high is None:
            return None
        low, high = sorted((self._as_loss(self.change_low), self._as_loss(self.change_high)))
        return low, high

    def _as_loss(self, change: float) -> float:
        return change if self.lower_is_better else 0.0 - change


def change_between(baseline: Measured | None, candidate: Measured | None, *, unit: str) -> float | None:
    """Percent of the baseline, or points where the unit is percent; None where it has no meaning."""
    if baseline is None or candidate is None:
        return None
    if unit == "%":
        return candidate.value - baseline.value
    if baseline.value == 0 or not math.isfinite(baseline.value):
        return None
    return 100 * (candidate.value / baseline.value - 1)


def missing_side(sides: tuple[object | None, object | None]) -> str:
    """Which of baseline and candidate is None."""
    return "baseline" if sides[0] is None else "candidate"
