"""Whether two runs differ in a metric: the change, its interval and its p value, by rounds of repeats.

It judges one metric alone; `verdicts` makes verdicts of many. A round's two repeats share what the machine
did meanwhile, so their ratio does not. Without rounds there is an interval but no p value: where one run was
measured after the other, a difference may be the time's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from tpforge.measure.comparison.power import relative_change, smallest_effect
from tpforge.measure.comparison.turns import Turns
from tpforge.measure.runs.run import Level
from tpforge.measure.runs.samples import Interval
from tpforge.measure.statistics import (
    difference_interval,
    fisher_exact,
    share_difference,
    student_t_cdf,
    student_t_quantile,
)

CONFIDENCE = 0.95
"""Of intervals and verdicts; the intervals of a run have the same."""

ROUNDING = 1e-9
"""Of a value: constant repeats have no spread, and a rounding error must not become a verdict."""

NOT_IN_TURNS = "measured one after the other: the machine may have changed meanwhile"


@dataclass(frozen=True)
class Judgement:
    """The change in percent (of shares in points), its interval, its p value; why there is no p value.

    `error` is the standard error of the logarithm of the ratio, of `freedom` degrees of freedom.
    """

    change: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    reason: str = ""
    error: float | None = None
    freedom: int = 0

    def smallest_change(self, alpha: float) -> float | None:
        """The change in percent that a test at `alpha` would see in 8 of 10 cases."""
        if self.error is None:
            return None
        return 100 * relative_change(smallest_effect(self.freedom, alpha=alpha) * self.error)


def judge_repeats(first: Sequence[float], second: Sequence[float], *, turns: Turns) -> Judgement:
    """How far `second` lies above `first`, each with a value of every repeat."""
    if min(turns.num_repeats) < 2 or min(len(first), len(second)) < 2:
        return Judgement(reason="needs at least two repeats of each run")
    if (len(first), len(second)) != turns.num_repeats:
        return Judgement(reason="not every repeat measured it")
    if not all(map(math.isfinite, (*first, *second))):
        return Judgement(reason="failed requests make it infinite")
    scale, unscaled = _scale(first, second)
    if scale is None:
        return Judgement(reason="has no scale: the baseline is zero")
    ours, theirs = ([scale(value) for value in values] for values in (first, second))
    if not turns.are_taken:
        interval = difference_interval(ours, theirs, confidence=CONFIDENCE)
        assert interval is not None
        ends = (unscaled(interval.mean), unscaled(interval.low), unscaled(interval.high))
        return Judgement(*ends, reason=NOT_IN_TURNS)
    return _by_rounds(ours, theirs, turns, unscaled)


def judge_shares(first: Level, second: Level, found: tuple[Interval, Interval], *, turns: Turns) -> Judgement:
    """The difference of the shares of failed requests, in points; `found` has the intervals, in percent.

    Failures come together, so that requests count as fewer where repeats differ more than chance allows.
    """
    difference = found[1].mean - found[0].mean
    factor = max(_clustering(level) for level in (first, second))
    wider = [_scaled_interval(interval, math.sqrt(factor)) for interval in found]
    low, high = share_difference(*wider)
    if not turns.are_taken and min(turns.num_repeats) > 1:
        return Judgement(difference, low, high, reason=NOT_IN_TURNS)
    if min(turns.num_repeats) < 2:
        return Judgement(difference, low, high, reason="needs at least two repeats of each run")
    counts = [_counts(level, factor) for level in (first, second)]
    return Judgement(difference, low, high, fisher_exact(*counts))


def _by_rounds(
    ours: Sequence[float], theirs: Sequence[float], turns: Turns, unscaled: Callable[[float], float]
) -> Judgement:
    """A paired t; a drift that the order of the turns leaves in it is taken off the change."""
    pairs = [
        (fmean(ours[place] for place in one.first), fmean(theirs[place] for place in one.second))
        for one in turns.rounds
    ]
    changes = [after - before for before, after in pairs]
    n, mean = len(changes), fmean(changes)
    error, drift = stdev(changes) / math.sqrt(n), _drift(pairs, turns)
    if max(map(abs, changes)) <= ROUNDING:
        return Judgement(0.0, 0.0, 0.0, 1.0, "no difference")
    half = student_t_quantile((1 + CONFIDENCE) / 2, n - 1) * error + drift
    ends = (unscaled(mean), unscaled(mean - half), unscaled(mean + half))
    rest = max(0.0, abs(mean) - drift)
    p_value = 2 * (1 - student_t_cdf(rest / error, n - 1)) if error > 0 else float(rest == 0)
    return Judgement(*ends, min(1.0, p_value), error=error, freedom=n - 1)


def _drift(pairs: Sequence[tuple[float, float]], turns: Turns) -> float:
    """What a steady drift adds to the mean change: nothing where either run came first equally often."""
    lag = fmean(one.second_s - one.first_s for one in turns.rounds)
    times = [(one.first_s + one.second_s) / 2 for one in turns.rounds]
    middle = fmean(times)
    spread = math.fsum((time - middle) ** 2 for time in times)
    if not turns.keep_their_order or spread == 0:
        return 0.0
    slope = math.fsum((t - middle) * fmean(pair) for t, pair in zip(times, pairs, strict=True)) / spread
    return abs(slope * lag)


def _scale(
    first: Sequence[float], second: Sequence[float]
) -> tuple[Callable[[float], float] | None, Callable[[float], float]]:
    """Logarithms, whose differences are ratios; of values that may be zero shares of the baseline's mean."""
    if min(*first, *second) > 0:
        return math.log, lambda log: 100 * relative_change(log)
    if all(value == 0 for value in (*first, *second)):
        return (lambda value: value), (lambda value: value)
    mean = fmean(first)
    # What is never below zero falls by no more than all of it, wherever the interval of a difference ends.
    return ((lambda value: value / mean) if mean else None), lambda share: max(-100.0, 100 * share)


def _clustering(level: Level) -> float:
    """By how much the failures of repeats vary more than those of independent requests would."""
    counts = [(one.num_requests - one.num_completed, one.num_requests) for one in level.repeats]
    failed, of = (sum(numbers) for numbers in zip(*counts, strict=True))
    if len(counts) < 2 or failed in (0, of):
        return 1.0
    share = failed / of
    squares = math.fsum((some - n * share) ** 2 / (n * share * (1 - share)) for some, n in counts if n)
    return max(1.0, squares / (len(counts) - 1))


def _counts(level: Level, factor: float) -> tuple[int, int]:
    failed = sum(one.num_requests - one.num_completed for one in level.repeats)
    return round(failed / factor), round(level.num_requests / factor)


def _scaled_interval(interval: Interval, factor: float) -> Interval:
    low, high = (interval.mean + (end - interval.mean) * factor for end in (interval.low, interval.high))
    return interval.model_copy(update={"low": max(0.0, low), "high": min(100.0, high)})
