"""The load that an option is judged at: what is asked for, or the most requests that keep every limit.

It weighs no options against each other; that more requests at once never shorten a step is all it relies on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from tpforge.plan.speed.calibration import Fit
from tpforge.plan.speed.load import Load
from tpforge.plan.speed.throughput import Batch, Engine, Limit, Speed, StepModel, largest_batch, speed_at


@dataclass(frozen=True)
class Limits:
    """Most milliseconds to the first token, and for each later one; None is no limit.

    `wished_tpot_ms` is kept where it can be: it chooses a batch when neither a load nor a limit is given.
    """

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    wished_tpot_ms: float | None = None

    def broken_by(self, speed: Speed, *, scale: float) -> str | None:
        """What `speed`, `scale` times as fast as estimated, exceeds."""
        ttft, tpot = speed.ttft_ms / scale, speed.tpot_ms / scale
        at = "one request alone" if speed.batch == 1 else f"{speed.batch} requests at once"
        if self.tpot_ms is not None and tpot > self.tpot_ms:
            return f"{above(tpot, self.tpot_ms)} ms per token with {at}, more than {self.tpot_ms:g}"
        if self.ttft_ms is not None and ttft > self.ttft_ms:
            return f"{above(ttft, self.ttft_ms)} ms to the first token with {at}, more than {self.ttft_ms:g}"
        return None

    def used_by(self, speed: Speed, *, scale: float) -> float:
        """The share of a limit that `speed` needs, of the one that it needs most of; 0 without any."""
        limited = ((speed.tpot_ms, self.tpot_ms), (speed.ttft_ms, self.ttft_ms))
        return max((found / scale / limit for found, limit in limited if limit is not None), default=0.0)

    def are_broken_by(self, speed: Speed, *, scale: float) -> bool:
        """Whether `speed` exceeds any."""
        return self.used_by(speed, scale=scale) > 1


def above(value: float, limit: float) -> str:
    """A value beyond a limit, with as many digits as show it: 30.04, not 30.0, is more than 30."""
    texts = (f"{value:.{digits}f}" for digits in range(0 if value >= 100 else 1, 9))
    return next((text for text in texts if float(text) > limit), f"{value!r}")


@dataclass(frozen=True)
class Operation:
    """The speed at the load an option is judged at, and why it does not do.

    `most_per_second` are the requests a second that the largest batch serves, where a rate is stated.
    """

    speed: Speed
    cause: Literal["latency", "load"] | None = None
    reason: str | None = None
    most_per_second: float | None = None


def operate(engine: Engine, load: Load, *, limits: Limits, fit: Fit, scale: float) -> Operation:
    """One replica under `load` within `limits`, its estimates taken `scale` times as fast.

    A stated number of requests is judged as it is, a stated rate at the fewest at once that serve it. With
    neither, the most requests are searched that keep every limit.
    """
    model = StepModel(engine, fit)
    most = largest_batch(engine, load)
    assert most is not None, "a request that fits has a batch"

    @cache
    def at(size: int) -> Speed:
        return speed_at(model, load, batch=Batch(size, most.limit))

    if load.requests_per_second is not None:
        return _at_rate(at, load, most=most, limits=limits, scale=scale)
    if load.concurrency is None:
        return _within(at, most=most, limits=limits, scale=scale)
    return _judged(at(most.size), limits, scale=scale)


def _at_rate(
    at: Callable[[int], Speed], load: Load, *, most: Batch, limits: Limits, scale: float
) -> Operation:
    """At the fewest requests at once that finish as fast as requests come."""
    rate = load.requests_per_second
    assert rate is not None

    def served(size: int) -> float:
        return scale * at(size).tokens_per_second / load.output_tokens

    if served(most.size) < rate:
        full = served(most.size)
        reason = f"serves {full:.2f} requests/s per replica of the {rate:.2f} asked for"
        return Operation(at(most.size), "load", reason, full)
    # Time grows evenly with the requests at once, where what is served does not.
    size = first_size(
        most.size, lambda size: served(size) >= rate, beyond=lambda size: size * (1 - rate / served(size))
    )
    judged = _judged(replace(at(size), limit="rate"), limits, scale=scale)
    return replace(judged, most_per_second=served(most.size))


def _within(at: Callable[[int], Speed], *, most: Batch, limits: Limits, scale: float) -> Operation:
    """At the most requests at once that keep the limits; at one request where not even that does."""
    wish = Limits(tpot_ms=limits.wished_tpot_ms)
    limited = limits.tpot_ms is not None or limits.ttft_ms is not None
    kept = limits if limited else wish
    limit: Limit = "latency limit" if limited else "operating point"
    first = first_size(
        most.size,
        lambda size: kept.are_broken_by(at(size), scale=scale),
        beyond=lambda size: kept.used_by(at(size), scale=scale) - 1,
    )
    size = first - 1
    if size == most.size or (size == 0 and not limited):
        return _judged(at(most.size), limits, scale=scale)
    return _judged(replace(at(max(1, size)), limit=limit), limits, scale=scale)


def first_size(most: int, holds: Callable[[int], bool], *, beyond: Callable[[int], float]) -> int:
    """The smallest size up to `most` that something `holds` for, as for all larger ones; else `most` + 1.

    `beyond` says how far a size is past the change, below 0 before it: a line through two sizes around it is
    near, so that few are tried (false position, Illinois variant; a bisection would try a dozen). Where it
    changes more than once, as where all-reduce takes another protocol, one of the changes is found.
    """
    if holds(1):
        return 1
    if most == 1 or not holds(most):
        return most + 1
    low, high, moved = 1, most, 0
    before, past = beyond(low), beyond(high)
    while high - low > 1:
        share = before / (before - past) if before < 0 <= past else 0.5
        size = min(high - 1, max(low + 1, math.ceil(low + share * (high - low))))
        if holds(size):
            # A side that stays counts half, or the other would only creep towards it.
            before = before / 2 if moved == high else before
            high, past, moved = size, beyond(size), size
        else:
            past = past / 2 if moved == low else past
            low, before, moved = size, beyond(size), size
    return high


def _judged(speed: Speed, limits: Limits, *, scale: float) -> Operation:
    reason = limits.broken_by(speed, scale=scale)
    return Operation(speed) if reason is None else Operation(speed, "latency", reason)
