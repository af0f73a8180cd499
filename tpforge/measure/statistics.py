"""Percentiles; intervals of means, differences and shares; p values, alone and many together.

Plain numbers in, plain numbers out, standard library only; it knows nothing of requests or metrics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist, fmean, stdev

from tpforge.measure.runs.samples import Interval

_TINY = 1e-300
_EPSILON = 1e-15
_MAX_TERMS = 1000


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which `percent` of `values` lie, interpolated linearly, as numpy.percentile does.

    Raises:
        ValueError: there is no value, or `percent` is not within 0 to 100.
    Source: Hyndman and Fan, "Sample Quantiles in Statistical Packages", 1996, definition 7
    """
    return percentiles(values, (percent,))[0]


def percentiles(values: Sequence[float], percents: Sequence[float]) -> tuple[float, ...]:
    """Several percentiles of the same values, which are sorted once."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    return tuple(_of_sorted(ordered, percent) for percent in percents)


def sample_deviation(values: Sequence[float]) -> float | None:
    """The standard deviation with n - 1; None of a single value."""
    return stdev(values) if len(values) > 1 else None


def mean_interval(values: Sequence[float], *, confidence: float = 0.95) -> Interval | None:
    """Where the mean lies that `values` are drawn around; None of fewer than two.

    mean +- t(n - 1) x s / sqrt(n): right where the values are independent and about normal, as means of
    repeats are.
    """
    if len(values) < 2:
        return None
    mean, n = fmean(values), len(values)
    half = student_t_quantile((1 + confidence) / 2, n - 1) * stdev(values) / math.sqrt(n)
    return Interval(mean=mean, low=mean - half, high=mean + half, n=n, confidence=confidence)


def difference_interval(
    first: Sequence[float], second: Sequence[float], *, confidence: float = 0.95
) -> Interval | None:
    """Where mean(second) - mean(first) lies, without assuming equal variances; None if either has one value.

    `n` is the smaller number of values.
    Source: Welch, "The generalization of Student's problem", 1947; Satterthwaite's degrees of freedom
    """
    if len(first) < 2 or len(second) < 2:
        return None
    errors = [stdev(values) ** 2 / len(values) for values in (first, second)]
    difference, n = fmean(second) - fmean(first), min(len(first), len(second))
    variance = sum(errors)
    if variance == 0:
        return Interval(mean=difference, low=difference, high=difference, n=n, confidence=confidence)
    freedom = variance**2 / (errors[0] ** 2 / (len(first) - 1) + errors[1] ** 2 / (len(second) - 1))
    half = student_t_quantile((1 + confidence) / 2, freedom) * math.sqrt(variance)
    return Interval(
        mean=difference, low=difference - half, high=difference + half, n=n, confidence=confidence
    )


def proportion_interval(successes: int, trials: int, *, confidence: float = 0.95) -> Interval | None:
    """Where the true share lies; None without trials. Wilson's score, which holds near 0 and 1 too.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", 1927
    """
    if trials == 0:
        return None
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, weight = successes / trials, z * z / trials
    center = (share + weight / 2) / (1 + weight)
    half = z * math.sqrt(share * (1 - share) / trials + weight / (4 * trials)) / (1 + weight)
    # At both ends the bound is the end itself, which the difference of two rounded numbers misses.
    low = 0.0 if successes == 0 else max(0.0, center - half)
    high = 1.0 if successes == trials else min(1.0, center + half)
    return Interval(mean=share, low=low, high=high, n=trials, confidence=confidence)


def holm(p_values: Sequence[float], weights: Sequence[float]) -> tuple[float, ...]:
    """The p values such that calling those below alpha makes one false call or more at most with alpha.

    The one with the least p / weight comes first, with all of alpha divided by weight; each that falls leaves
    its share to the others.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979, with weights
    """
    adjusted = [1.0] * len(p_values)
    left, worst = math.fsum(weights), 0.0
    for place in sorted(range(len(p_values)), key=lambda place: p_values[place] / weights[place]):
        worst = max(worst, p_values[place] * max(left, weights[place]) / weights[place])
        adjusted[place] = min(1.0, worst)
        left -= weights[place]
    return tuple(adjusted)


def share_difference(first: Interval, second: Interval) -> tuple[float, float]:
    """Where the difference of two shares lies, by the Wilson interval of each.

    Source: Newcombe, "Interval estimation for the difference between independent proportions", 1998,
    method 10
    """
    difference = second.mean - first.mean
    low = math.hypot(second.mean - second.low, first.high - first.mean)
    high = math.hypot(second.high - second.mean, first.mean - first.low)
    return difference - low, difference + high


def fisher_exact(first: tuple[int, int], second: tuple[int, int]) -> float:
    """The two-sided p value of two counts, (successes, trials) each, having one share.

    Source: Fisher, "Statistical Methods for Research Workers", 1934, section 21.02
    """
    (a, n), (b, m) = first, second
    whole = _log_binomial(n + m, a + b)
    least, most = max(0, a + b - m), min(n, a + b)
    logs = [_log_binomial(n, k) + _log_binomial(m, a + b - k) - whole for k in range(least, most + 1)]
    observed = logs[a - least] + 1e-7
    return min(1.0, math.fsum(math.exp(value) for value in logs if value <= observed))


def sign_test(lost: int, gained: int) -> float:
    """The two-sided p value of `lost` and `gained` being equally likely: McNemar's test, exact."""
    n = lost + gained
    tail = math.fsum(math.exp(_log_binomial(n, k) - n * math.log(2)) for k in range(min(lost, gained) + 1))
    return min(1.0, 2 * tail)


def student_t_cdf(t: float, freedom: float) -> float:
    """The probability that Student's t with `freedom` degrees of freedom is at most `t`."""
    tail = 0.5 * regularized_beta(freedom / (freedom + t * t), freedom / 2, 0.5)
    return 1 - tail if t > 0 else tail


@cache
def student_t_quantile(probability: float, freedom: float) -> float:
    """The t that Student's distribution stays below with `probability`; the inverse of `student_t_cdf`.

    Raises:
        ValueError: `probability` is not between 0 and 1, or `freedom` not positive.
    """
    if not 0 < probability < 1 or freedom <= 0:
        raise ValueError(f"no quantile at probability {probability}, {freedom} degrees of freedom")
    if probability < 0.5:
        return -student_t_quantile(1 - probability, freedom)
    low, high = 0.0, 1.0
    while student_t_cdf(high, freedom) < probability:
        low, high = high, high * 2
    while high - low > _EPSILON * max(1.0, high):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if student_t_cdf(middle, freedom) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def regularized_beta(x: float, a: float, b: float) -> float:
    """The incomplete beta function I_x(a, b), by its continued fraction.

    Source: NIST Digital Library of Mathematical Functions, 8.17.22; evaluated by Lentz's method
    """
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - regularized_beta(1 - x, b, a)
    logarithm = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    c, d = 1.0, 1 / _away_from_zero(1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, _MAX_TERMS):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _away_from_zero(1 + term * d)
            c = _away_from_zero(1 + term / c)
            fraction *= c * d
        if abs(c * d - 1) < _EPSILON:
            break
    return math.exp(logarithm) * fraction / a


def _log_binomial(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _of_sorted(ordered: Sequence[float], percent: float) -> float:
    if not 0 <= percent <= 100:
        raise ValueError(f"{percent} is no percentage")
    place = (len(ordered) - 1) * percent / 100
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
