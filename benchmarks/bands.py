"""Error bands that hold on what nobody has measured yet: of rows held out by release, GPU and model.

It fits no estimate: a band is where 8 of 10 measurements lay, as a share of the estimate. Groups of a
release, GPU and model count about alike. The next release, GPU or model is none of these, so bands are
widened by one factor until, of groups left out in turn, 85 % of the rows lie in the bands of the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.latency import estimates, latency_rows
from benchmarks.published import Row, rows
from tpforge.plan.speed.calibration import STARVED, Band, BandKind, Fit, TimeBand
from tpforge.plan.speed.throughput import largest_batch, speed

SHARE = 0.8
GOAL = 0.85
"""Of rows left out, in the mean of groups: in the upper half of what a band of 8 of 10 should hold (75 to 88
of 100). It was raised from 0.82 when single groups of the same rows were seen to lie lower.
"""
_LEAST_ROWS = 10
_MOST_OF_A_GROUP = 40
"""Rows up to which a group counts more the more it has."""
_OLDER = {"0.14", "0.15"}
_SATURATED: tuple[BandKind, ...] = (
    "one GPU",
    "nvlink",
    "pcie",
    "pipeline",
    "experts",
    "starved of cache",
    "other architecture",
)
_LIGHT: tuple[BandKind, ...] = ("under load", "under load, experts")
DIMENSIONS = ("release", "GPU", "model")


@dataclass(frozen=True)
class Residual:
    """ln(measured / estimate) of a row, and what the row is of."""

    kind: BandKind
    group: tuple[str, str, str]
    """Its release, GPU and model."""
    value: float

    @property
    def is_older(self) -> bool:
        """Whether its release has a band of its own, beside that of its kind."""
        return self.group[0] in _OLDER

    @property
    def kinds(self) -> tuple[BandKind, ...]:
        """The bands that it lies in, taken together as a plan takes them."""
        return (self.kind, "older release") if self.is_older else (self.kind,)


@dataclass(frozen=True)
class Coverage:
    """How many rows of a group lay in the bands that the other groups give."""

    what: str
    dimension: str
    name: str
    rows: int
    inside: int

    @property
    def share(self) -> float:
        """Of all its rows."""
        return self.inside / self.rows


def kind_of(row: Row) -> BandKind:
    """The band that a published row is of."""
    if row.engine.shapes.caches is not None:
        return "other architecture"
    if row.engine.shapes.model.moe is not None:
        return "experts"
    most = largest_batch(row.engine, row.load)
    if most is not None and most.limit == "KV cache" and most.size < STARVED:
        return "starved of cache"
    if row.pp > 1:
        return "pipeline"
    return "one GPU" if row.tp == 1 else row.engine.cluster.link


def throughput_residuals(fit: Fit) -> list[Residual]:
    """Of the rows that nothing was fitted to."""
    return [
        Residual(
            kind_of(row), (row.release, row.gpu, row.model), math.log(row.measured / found.tokens_per_second)
        )
        for name in ("check", "experts", "architectures")
        for row in rows(name)
        if (found := speed(row.engine, row.load, fit=fit)) is not None
    ]


def time_residuals(fit: Fit, name: str) -> list[Residual]:
    """Of the times under load that nothing was fitted to; ``ttft_ms`` or ``tpot_ms``."""
    return [
        Residual(
            "under load, experts" if row.engine.shapes.model.moe is not None else "under load",
            (row.release, row.gpu, row.model),
            math.log(getattr(row, name) / getattr(found, name)),
        )
        for row, found in estimates(fit, latency_rows())
        if not row.is_fitted
    ]


def widening(residuals: Sequence[Residual]) -> float:
    """The factor of all bands' widths with which GOAL of the rows left out lie inside."""
    for hundredth in range(100, 301, 5):
        found = coverage("", residuals, width=hundredth / 100)
        if sum(one.share for one in found) / len(found) >= GOAL:
            return hundredth / 100
    raise AssertionError("three times as wide bands hold too few rows")


def coverage(what: str, residuals: Sequence[Residual], *, width: float) -> list[Coverage]:
    """Every release, GPU and model left out in turn; the worst first."""
    found = []
    for index, dimension in enumerate(DIMENSIONS):
        for name in sorted({one.group[index] for one in residuals}):
            held = [one for one in residuals if one.group[index] == name]
            rest = [one for one in residuals if one.group[index] != name]
            if len(held) < _LEAST_ROWS or not rest:
                continue
            inside = 0
            for kinds in {one.kinds for one in held}:
                each = [limits(like(rest, kind), width=width) for kind in kinds]
                low, high = min(low for low, _ in each), max(high for _, high in each)
                inside += sum(low <= one.value <= high for one in held if one.kinds == kinds)
            found.append(Coverage(what, dimension, name, len(held), inside))
    return sorted(found, key=lambda one: one.share)


def like(residuals: Sequence[Residual], kind: BandKind) -> list[Residual]:
    """Those of a kind; all, where too few are."""
    same = [one for one in residuals if kind in one.kinds]
    return same if len(same) >= _LEAST_ROWS else list(residuals)


def limits(residuals: Sequence[Residual], *, width: float) -> tuple[float, float]:
    """Where SHARE of them lie, groups alike, and `width` times that about the median; the estimate within."""
    low, middle, high = (_quantile(residuals, share) for share in ((1 - SHARE) / 2, 0.5, (1 + SHARE) / 2))
    return min(0.0, middle + width * (low - middle)), max(0.0, middle + width * (high - middle))


def _quantile(residuals: Sequence[Residual], share: float) -> float:
    sizes: dict[tuple[str, str, str], int] = {}
    for one in residuals:
        sizes[one.group] = sizes.get(one.group, 0) + 1
    weighted = sorted((one.value, min(1.0, _MOST_OF_A_GROUP / sizes[one.group])) for one in residuals)
    left = share * sum(weight for _, weight in weighted)
    for value, weight in weighted:
        left -= weight
        if left <= 0:
            return value
    return weighted[-1][0]


def throughput_bands(fit: Fit) -> Iterator[Band]:
    """Of every kind with rows; those under load are the times' of a later token, turned round."""
    found = throughput_residuals(fit)
    width = widening(found)
    for kind in _SATURATED:
        yield _band(kind, like(found, kind), width=width)
    yield _band("older release", like(found, "older release"), width=width)
    times = time_residuals(fit, "tpot_ms")
    turned = [Residual(one.kind, one.group, -one.value) for one in times]
    width = widening(turned)
    for kind in _LIGHT:
        yield _band(kind, like(turned, kind), width=width)


def time_bands(fit: Fit) -> dict[str, TimeBand]:
    """Of the first token; that of a later one is the throughput's."""
    found = time_residuals(fit, "ttft_ms")
    low, high = limits(found, width=widening(found))
    return {"ttft": TimeBand(low=_rounded(low), high=_rounded(high), rows=len(found))}


@dataclass(frozen=True)
class Covered:
    """How many rows of groups left out lie in the bands of the others: all groups, the worst first.

    `plain` are the same groups with bands that are not widened.
    """

    what: str
    rows: int
    width: float
    groups: tuple[Coverage, ...]
    plain: tuple[Coverage, ...]

    @property
    def cells(self) -> tuple[str, ...]:
        """For a table."""
        means = (sum(one.share for one in each) / len(each) for each in (self.plain, self.groups))
        return (
            self.what,
            f"{self.rows}",
            f"{len(self.groups)}",
            f"{self.width:.2f}",
            *(f"{100 * one:.0f} %" for one in means),
            f"{100 * sum(one.inside for one in self.groups) / sum(one.rows for one in self.groups):.0f} %",
        )


def covered(what: str, residuals: Sequence[Residual]) -> Covered:
    """Of bands widened until GOAL of what was left out lies inside."""
    width = widening(residuals)
    return Covered(
        what,
        len(residuals),
        width,
        tuple(coverage(what, residuals, width=width)),
        tuple(coverage(what, residuals, width=1)),
    )


def _band(kind: BandKind, residuals: Sequence[Residual], *, width: float) -> Band:
    low, high = limits(residuals, width=width)
    return Band(kind=kind, low=_rounded(low), high=_rounded(high), rows=len(residuals))


def _rounded(value: float) -> float:
    return round(math.exp(value), 3)
