"""The smallest change that a comparison of so many repeats would see, before anything is measured.

It judges no run; `compare` does. Plain numbers in, plain numbers out.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from statistics import stdev

POWER = 0.8
"""How often a true change of that size is called one, at 95 % confidence."""

APART = {
    2: 10.42, 3: 3.51, 4: 2.51, 5: 2.08, 6: 1.83, 7: 1.65, 8: 1.52, 9: 1.42, 10: 1.33, 12: 1.20, 15: 1.06,
    20: 0.91, 30: 0.74,
}  # fmt: skip
"""Welch's test of two runs of so many repeats each: the change in standard deviations of one repeat."""

IN_TURNS = {
    2: 11.55, 3: 3.27, 4: 2.13, 5: 1.68, 6: 1.44, 7: 1.27, 8: 1.16, 9: 1.07, 10: 1.00, 12: 0.89, 15: 0.78,
    20: 0.66, 30: 0.53,
}  # fmt: skip
"""A paired test of so many rounds: the change in standard deviations of a round's ratio.

Both tables: 400,000 draws of normal values, of which scipy's tests call four in five a change.
"""


def smallest_change(num_repeats: int, *, noise: float, table: Mapping[int, float] = APART) -> float | None:
    """The factor, less 1, that is seen with POWER; None of fewer than two repeats, which see nothing.

    `noise` is the standard deviation of the logarithms of one repeat's values, about its share of the mean;
    of IN_TURNS, that of the ratios of a round.
    """
    deviations = _interpolated(table, num_repeats)
    return None if deviations is None else math.expm1(deviations * noise)


def noise_of(values: Sequence[float]) -> float | None:
    """The standard deviation of the logarithms of repeats; None of fewer than two, or of one not above 0."""
    if len(values) < 2 or min(values) <= 0:
        return None
    return stdev(map(math.log, values))


def _interpolated(table: Mapping[int, float], num_repeats: int) -> float | None:
    """The row of so many repeats; between rows, and after the last, by the square root of the number."""
    if num_repeats < 2:
        return None
    rows = sorted(table)
    place = bisect_left(rows, num_repeats)
    below = rows[min(place, len(rows) - 1)]
    if below > num_repeats:
        # Of fewer repeats than asked for, so that nothing is promised that is not there.
        below = rows[place - 1]
    return table[below] * math.sqrt(below / num_repeats)
