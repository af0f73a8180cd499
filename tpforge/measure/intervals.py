"""Intervals over repeats of what cannot be negative: on a logarithmic scale, around the pooled value.

It decides nothing. Simulated (log-normal requests, repeats that differ by 0 to 10 %, 100 requests or more in
all), the interval of a p95 holds the true one in 92 to 97 of 100 cases at 2 to 8 repeats; a bootstrap over
3 repeats does in 65: three values resampled know too little of what a fourth would have been.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import stdev

from tpforge.measure.runs.samples import Interval
from tpforge.measure.statistics import student_t_quantile


def positive_interval(
    center: float, repeats: Sequence[float], *, confidence: float = 0.95
) -> Interval | None:
    """Where the true value lies around `center`, by its values in the `repeats`; None of fewer than two.

    center x or / exp(t(n - 1) x s / sqrt(n)), s of the logarithms. Where a value is zero there is no
    logarithm: then center +- t x s / sqrt(n), not below zero.
    """
    n = len(repeats)
    if n < 2 or not all(map(math.isfinite, (center, *repeats))):
        return None
    quantile = student_t_quantile((1 + confidence) / 2, n - 1) / math.sqrt(n)
    if min(center, *repeats) > 0:
        factor = math.exp(quantile * stdev(map(math.log, repeats)))
        low, high = center / factor, center * factor
    else:
        half = quantile * stdev(repeats)
        low, high = max(0.0, center - half), center + half
    return Interval(mean=center, low=low, high=high, n=n, confidence=confidence)
