"""Whether two runs were measured in turns: which repeats make a round, so that drift falls on both alike.

It knows times only, no values; `judging` compares the values of a round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby, pairwise
from statistics import fmean


@dataclass(frozen=True)
class Round:
    """Repeats of either run that lie beside each other in time: their places, and when they began (s)."""

    first: tuple[int, ...]
    second: tuple[int, ...]
    first_s: float
    second_s: float


@dataclass(frozen=True)
class Turns:
    """The rounds of two runs; fewer than two where one run was measured after the other.

    `num_repeats` has the number of repeats of each.
    """

    num_repeats: tuple[int, int]
    rounds: tuple[Round, ...]

    @property
    def are_taken(self) -> bool:
        """Whether drift of the machine falls on both runs alike."""
        return len(self.rounds) > 1

    @property
    def keep_their_order(self) -> bool:
        """Whether one run is always first in its round: then a steady drift does not cancel out."""
        later = [(one.second_s > one.first_s) - (one.second_s < one.first_s) for one in self.rounds]
        return len(later) > 1 and abs(sum(later)) == len(later)


def turns_of(first: Sequence[str], second: Sequence[str]) -> Turns:
    """The rounds by when each repeat began (ISO 8601).

    A round is a repeat of each where they alternate one by one; else neighbouring groups of repeats are one.
    """
    ours, theirs = (_seconds(times) for times in (first, second))
    return Turns((len(first), len(second)), _one_by_one(ours, theirs) or _groups(ours, theirs))


def _one_by_one(ours: Sequence[float], theirs: Sequence[float]) -> tuple[Round, ...]:
    if len(ours) != len(theirs):
        return ()
    order = [sorted(range(len(times)), key=times.__getitem__) for times in (ours, theirs)]
    found = tuple(Round((a,), (b,), ours[a], theirs[b]) for a, b in zip(*order, strict=True))
    apart = all(max(x.first_s, x.second_s) <= min(y.first_s, y.second_s) for x, y in pairwise(found))
    return found if apart else ()


def _groups(ours: Sequence[float], theirs: Sequence[float]) -> tuple[Round, ...]:
    """Neighbouring groups: A A B B A B B is (A A, B B), (A, B B)."""
    times = sorted(
        [(at, 0, place) for place, at in enumerate(ours)]
        + [(at, 1, place) for place, at in enumerate(theirs)]
    )
    groups = [list(group) for _, group in groupby(times, key=lambda item: item[1])]
    found = []
    for one, other in zip(groups[::2], groups[1::2], strict=False):
        first, second = sorted((one, other), key=lambda group: group[0][1])
        found.append(
            Round(
                tuple(item[2] for item in first),
                tuple(item[2] for item in second),
                fmean(item[0] for item in first),
                fmean(item[0] for item in second),
            )
        )
    return tuple(found) if len(found) > 1 else ()


def _seconds(times: Sequence[str]) -> list[float]:
    return [datetime.fromisoformat(time).timestamp() for time in times]
