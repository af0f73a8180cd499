"""What a user's speed costs in throughput: of all options and batches those that no other beats in both.

It chooses no option; the operating point of a plan without a stated load is marked on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tpforge.plan.calibration import Calibration
from tpforge.plan.load import Load
from tpforge.plan.option import Option
from tpforge.plan.throughput import Batch, StepModel, largest_batch, speed_at

USER_SPEEDS = (5, 10, 25, 50, 100, 200)
"""The tokens/s per user that a table of the frontier has a row for."""
_STEP = 2**0.25


@dataclass(frozen=True)
class FrontierPoint:
    """An option with `batch` requests at once a replica; output tokens/s of a `user` and of a `gpu`."""

    option: Option
    batch: int
    user: float
    gpu: float
    ttft_ms: float


def frontier(options: Sequence[Option], load: Load, *, calibration: Calibration) -> tuple[FrontierPoint, ...]:
    """The points that no other beats in tokens/s per user and per GPU; the fastest for a user first."""
    points = [point for one in options for point in _points(one, load, calibration=calibration)]
    kept: list[FrontierPoint] = []
    for point in sorted(points, key=lambda one: (-one.user, -one.gpu)):
        if not kept or point.gpu > kept[-1].gpu:
            kept.append(point)
    return tuple(kept)


def at_user_speeds(points: Sequence[FrontierPoint]) -> tuple[tuple[int, FrontierPoint], ...]:
    """For every speed of USER_SPEEDS that is reached: the point with most tokens/s per GPU."""
    found = []
    for wanted in USER_SPEEDS:
        enough = [one for one in points if one.user >= wanted]
        if enough:
            found.append((wanted, max(enough, key=lambda one: one.gpu)))
    return tuple(found)


def _points(option: Option, load: Load, *, calibration: Calibration) -> Iterator[FrontierPoint]:
    """Four for every doubling of the batch, up to the largest, and the one the option is judged at."""
    if option.engine is None or option.speed is None or option.rejection is not None:
        return
    most = largest_batch(option.engine, load)
    assert most is not None, "an option that works holds a request"
    model = StepModel(option.engine, calibration.fit)
    sizes, size = {most.size, option.speed.batch}, 1.0
    while size < most.size:
        sizes.add(round(size))
        size *= _STEP
    for count in sorted(sizes):
        speed = speed_at(model, load, batch=Batch(count, "concurrency"))
        yield FrontierPoint(
            option,
            count,
            user=1e3 * option.scale / speed.tpot_ms,
            gpu=option.scale * speed.tokens_per_second / option.mapping.world_size,
            ttft_ms=speed.ttft_ms / option.scale,
        )
