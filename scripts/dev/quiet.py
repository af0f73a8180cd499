"""Whether the machine was quiet around a measurement: what others and the host took of its processors.

It measures nothing else and waits for nothing but its own samples. Source: proc(5), /proc/stat.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_STAT = Path("/proc/stat")
_SAMPLE_S = 3.0
MOST_OTHERS = 0.05
MOST_STOLEN = 0.02


@dataclass(frozen=True)
class Times:
    """Ticks of all processors since the start: all of them, those of no program, those that the host took."""

    all: int
    idle: int
    stolen: int


@dataclass(frozen=True)
class Noise:
    """Parts of the processors: what others took before and after, and the host during a measurement."""

    before: float
    after: float
    stolen: float

    @property
    def is_quiet(self) -> bool:
        """Whether none of it can have changed a figure by much."""
        return max(self.before, self.after) <= MOST_OTHERS and self.stolen <= MOST_STOLEN

    def __str__(self) -> str:
        if self.is_quiet:
            return "quiet"
        return (
            f"**not quiet**: other programs took {self.before:.0%} of the processors before it and "
            f"{self.after:.0%} after it, the host {self.stolen:.0%} meanwhile"
        )


def parse_times(stat: str) -> Times:
    """The first line of /proc/stat."""
    name, *ticks = stat.split("\n", 1)[0].split()
    assert name == "cpu", f"/proc/stat begins with {name!r}"
    # user nice system idle iowait irq softirq steal; what guests take is counted in user and nice too.
    counts = [int(one) for one in ticks[:8]]
    return Times(all=sum(counts), idle=counts[3] + counts[4], stolen=counts[7])


def read_times() -> Times:
    """The times now."""
    return parse_times(_STAT.read_text(encoding="ascii"))


def busy_part(before: Times, after: Times) -> float:
    """What programs of this machine took between two times, from 0 to 1."""
    busy = (after.all - after.idle - after.stolen) - (before.all - before.idle - before.stolen)
    return busy / max(1, after.all - before.all)


def stolen_part(before: Times, after: Times) -> float:
    """What the host took between two times, from 0 to 1."""
    return (after.stolen - before.stolen) / max(1, after.all - before.all)


def watch(
    measure: Callable[[], None],
    *,
    read: Callable[[], Times] = read_times,
    sleep: Callable[[float], None] = time.sleep,
) -> Noise:
    """Measure, with a sample of what others do before and after."""

    def sample() -> float:
        first = read()
        sleep(_SAMPLE_S)
        return busy_part(first, read())

    before = sample()
    begun = read()
    measure()
    ended = read()
    return Noise(before=before, after=sample(), stolen=stolen_part(begun, ended))
