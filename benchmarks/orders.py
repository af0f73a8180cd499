"""Whether estimates put TP sizes in the order of the measurements, by tokens/s and by tokens/s per GPU.

It estimates nothing. A plan ranks no options that lie within the band of the best: such pairs are undecided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from benchmarks.bands import kind_of
from benchmarks.published import Row
from tpforge.plan.speed.calibration import Band

Error = tuple[Row, float]
"""A row, and estimate / measured - 1."""


@dataclass(frozen=True)
class Orders:
    """Groups of rows that differ in tp only.

    `right`: every pair is in order. `undecided`: none is out of order but within the band. `wrong`: the rest,
    each as release, model, GPU, lengths, and what was measured and estimated of each TP size.
    """

    right: int
    undecided: int
    wrong: tuple[tuple[str, ...], ...]

    @property
    def groups(self) -> int:
        """All of them."""
        return self.right + self.undecided + len(self.wrong)

    @property
    def cells(self) -> tuple[str, ...]:
        """For a table."""
        return tuple(map(str, (self.right, self.undecided, len(self.wrong), self.groups)))


def orders(found: Sequence[Error], *, per_gpu: bool, bands: Sequence[Band]) -> Orders:
    """The orders by tokens/s, or by tokens/s per GPU."""
    groups: dict[tuple[str, ...], list[Error]] = {}
    for row, error in found:
        groups.setdefault(row.group, []).append((row, error))
    right = undecided = 0
    wrong = []
    for group in groups.values():
        if len(group) == 1:
            continue
        turned = [pair for pair in combinations(group, 2) if _is_turned(*pair, per_gpu=per_gpu)]
        if not turned:
            right += 1
        elif all(_is_within(*pair, per_gpu=per_gpu, bands=bands) for pair in turned):
            undecided += 1
        else:
            wrong.append(_words(sorted(group, key=lambda one: one[0].tp), per_gpu=per_gpu))
    return Orders(right, undecided, tuple(wrong))


def _measured(one: Error, *, per_gpu: bool) -> float:
    row, _ = one
    return row.measured / (row.tp if per_gpu else 1)


def _estimated(one: Error, *, per_gpu: bool) -> float:
    return _measured(one, per_gpu=per_gpu) * (1 + one[1])


def _is_turned(first: Error, second: Error, *, per_gpu: bool) -> bool:
    measured = _measured(first, per_gpu=per_gpu) - _measured(second, per_gpu=per_gpu)
    estimated = _estimated(first, per_gpu=per_gpu) - _estimated(second, per_gpu=per_gpu)
    return measured * estimated < 0


def _is_within(first: Error, second: Error, *, per_gpu: bool, bands: Sequence[Band]) -> bool:
    """Whether the lower estimate lies within the band of the higher."""
    low, high = sorted((first, second), key=lambda one: _estimated(one, per_gpu=per_gpu))
    band = next(band for band in bands if band.kind == kind_of(high[0]))
    return _estimated(low, per_gpu=per_gpu) >= band.low * _estimated(high, per_gpu=per_gpu)


def _words(group: Sequence[Error], *, per_gpu: bool) -> tuple[str, ...]:
    release, model, gpu, precision, _, lengths = group[0][0].group
    sizes = ", ".join(
        f"TP{one[0].tp} {_measured(one, per_gpu=per_gpu):.0f} -> {_estimated(one, per_gpu=per_gpu):.0f}"
        for one in group
    )
    return (release, f"{model} {precision}", gpu, lengths, sizes)
