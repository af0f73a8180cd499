"""What a user's speed costs in throughput: of all options and batches those that no other beats in both.

It chooses no option; the operating point of a plan without a stated load is marked on it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tpforge.plan.options.option import Option
from tpforge.plan.speed.calibration import Calibration, Fit
from tpforge.plan.speed.load import Load
from tpforge.plan.speed.throughput import Batch, StepModel, largest_batch, speed_at

USER_SPEEDS = (5, 10, 25, 50, 100, 200)
"""The tokens/s per user that a table of the frontier has a row for."""
_STEP = 2**0.25
_SLACK = 1.1
"""Shares of requests and of experts are whole, so that a larger batch may be a little faster for a user."""


@dataclass(frozen=True)
class FrontierPoint:
    """An option with `batch` requests at once a replica; output tokens/s of a `user` and of a `gpu`."""

    option: Option
    batch: int
    user: float
    gpu: float
    ttft_ms: float


def frontier(options: Sequence[Option], load: Load, *, calibration: Calibration) -> tuple[FrontierPoint, ...]:
    """The points that no other beats in tokens/s per user and per GPU; the fastest for a user first.

    Of what lies between two batches of an option nothing is computed where another point beats all of it:
    a larger batch makes no user faster, and a smaller one no GPU.
    """
    curves = [curve for one in options if (curve := _curve(one, load, calibration=calibration))]
    between = [(curve, 0, len(curve.sizes) - 1) for curve in curves]
    for curve, first, last in between:
        curve.at(first), curve.at(last)
    while between:
        kept = _unbeaten(curves)
        found = []
        for curve, first, last in between:
            if last - first > 1 and not _is_beaten(
                _SLACK * curve.at(first).user, _SLACK * curve.at(last).gpu, by=kept
            ):
                middle = (first + last) // 2
                curve.at(middle)
                found += [(curve, first, middle), (curve, middle, last)]
        between = found
    return _unbeaten(curves)


def at_user_speeds(points: Sequence[FrontierPoint]) -> tuple[tuple[int, FrontierPoint], ...]:
    """For every speed of USER_SPEEDS that is reached: the point with most tokens/s per GPU."""
    found = []
    for wanted in USER_SPEEDS:
        enough = [one for one in points if one.user >= wanted]
        if enough:
            found.append((wanted, max(enough, key=lambda one: one.gpu)))
    return tuple(found)


def _unbeaten(curves: Sequence[_Curve]) -> tuple[FrontierPoint, ...]:
    """Of what was computed so far; of equals the first in the order of the options."""
    kept: list[FrontierPoint] = []
    for point in sorted(
        (point for one in curves for point in one.computed), key=lambda one: (-one.user, -one.gpu)
    ):
        if not kept or point.gpu > kept[-1].gpu:
            kept.append(point)
    return tuple(kept)


def _is_beaten(user: float, gpu: float, *, by: Sequence[FrontierPoint]) -> bool:
    """Whether one of the points, the fastest for a user first, is at least as good in both."""
    count = bisect_right(by, -user, key=lambda one: -one.user)
    return count > 0 and by[count - 1].gpu >= gpu


class _Curve:
    """An option at four batches for every doubling, up to the largest, and at the one it is judged at."""

    def __init__(self, option: Option, load: Load, *, most: int, fit: Fit) -> None:
        assert option.engine is not None and option.speed is not None
        sizes, size = {most, option.speed.batch}, 1.0
        while size < most:
            sizes.add(round(size))
            size *= _STEP
        self.sizes = sorted(sizes)
        self._option, self._load = option, load
        self._model = StepModel(option.engine, fit)
        self._found: dict[int, FrontierPoint] = {}

    @property
    def computed(self) -> Iterator[FrontierPoint]:
        """The points that were asked for, by batch."""
        return (self._found[index] for index in sorted(self._found))

    def at(self, index: int) -> FrontierPoint:
        """Computed once."""
        if index not in self._found:
            option, count = self._option, self.sizes[index]
            speed = speed_at(self._model, self._load, batch=Batch(count, "concurrency"))
            self._found[index] = FrontierPoint(
                option,
                count,
                user=1e3 * option.scale / speed.tpot_ms,
                gpu=option.scale * speed.tokens_per_second / option.mapping.world_size,
                ttft_ms=speed.ttft_ms / option.scale,
            )
        return self._found[index]


def _curve(option: Option, load: Load, *, calibration: Calibration) -> _Curve | None:
    """None for an option that does not work."""
    if option.engine is None or option.speed is None or option.rejection is not None:
        return None
    most = largest_batch(option.engine, load)
    assert most is not None, "an option that works holds a request"
    return _Curve(option, load, most=most.size, fit=calibration.fit)
