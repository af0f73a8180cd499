"""How large a change has to be for a design to see it: what an "undecided" is worth.

It looks at no run; `judging` knows how much one scatters.
"""

from __future__ import annotations

import math
from functools import cache
from statistics import NormalDist

from tpforge.measure.statistics import student_t_quantile

POWER = 0.8
"""How often a change of the size that is told would be seen."""

_STEPS = 400
_NORMAL = NormalDist()


@cache
def smallest_effect(freedom: int, *, alpha: float = 0.05, power: float = POWER) -> float:
    """The effect in standard errors that a two-sided t test at `alpha` sees with `power`."""
    critical = student_t_quantile(1 - alpha / 2, freedom)
    low, high = 0.0, critical
    while t_power(high, freedom, critical=critical) < power:
        low, high = high, 2 * high
    for _ in range(50):
        middle = (low + high) / 2
        if t_power(middle, freedom, critical=critical) < power:
            low = middle
        else:
            high = middle
    return high


def smallest_change(num_rounds: int, *, noise: float, alpha: float = 0.05) -> float:
    """The relative change that so many rounds see, where one repeat varies by `noise` (0.05: 5 %).

    A round has a repeat of each, so that their ratio varies by sqrt(2) x noise.
    """
    if num_rounds < 2:
        return math.inf
    error = math.sqrt(2) * noise / math.sqrt(num_rounds)
    return relative_change(smallest_effect(num_rounds - 1, alpha=alpha) * error)


def relative_change(log_ratio: float) -> float:
    """exp(log_ratio) - 1; infinite beyond what a float holds."""
    return math.expm1(log_ratio) if log_ratio < 700 else math.inf


def t_power(effect: float, freedom: int, *, critical: float) -> float:
    """How often |t| exceeds `critical` when the true effect is `effect` standard errors.

    t is (z + effect) / s with s^2 a chi-squared of `freedom` over `freedom`: integrated over s, by the
    midpoint rule between quantiles that leave out less than 1e-9.
    """
    spread = 7 / math.sqrt(2 * freedom)
    low, high = max(0.0, 1 - spread), 1 + spread
    width, total = (high - low) / _STEPS, 0.0
    constant = math.log(2) + freedom / 2 * math.log(freedom / 2) - math.lgamma(freedom / 2)
    for step in range(_STEPS):
        s = low + (step + 0.5) * width
        density = math.exp(constant + (freedom - 1) * math.log(s) - freedom * s * s / 2)
        total += density * (_NORMAL.cdf(effect - critical * s) + _NORMAL.cdf(-effect - critical * s))
    return total * width
