"""All errors, coverages and orders of one fit, computed once for tables and sentences of docs/planning.md.

It prints nothing; `tables` and `sentences` say what of it the page shows.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from benchmarks.bands import Covered, covered, kind_of, throughput_residuals, time_residuals
from benchmarks.beside_aiconfigurator import Beside, beside
from benchmarks.latency import Found, estimates, latency_rows
from benchmarks.orders import Error, Orders, orders
from benchmarks.published import Row, first_token_ms, first_tokens, rows
from tpforge.plan.speed.calibration import Fit, calibration


@dataclass(frozen=True)
class Spread:
    """Errors in short: how many, the median without and with its sign, what nine of ten are within.

    `inside` is the share that lies in the band of its kind.
    """

    rows: int
    median: float
    bias: float
    ninth: float
    inside: float

    @property
    def cells(self) -> tuple[str, ...]:
        """For a table."""
        return (
            str(self.rows),
            f"{100 * self.median:.1f} %",
            f"{100 * self.bias:+.1f} %",
            f"{100 * self.ninth:.0f} %",
            f"{100 * self.inside:.0f} %",
        )


def spread(found: Sequence[Error]) -> Spread:
    """The errors of some rows; one of which not one request was thought to fit lies in no band."""
    bands = {band.kind: band for band in calibration().bands}
    inside = [
        error > -1 and bands[kind_of(row)].low <= 1 / (1 + error) <= bands[kind_of(row)].high
        for row, error in found
    ]
    values = [error for _, error in found]
    sizes = sorted(abs(value) for value in values)
    return Spread(
        rows=len(values),
        median=statistics.median(sizes),
        bias=statistics.median(values),
        ninth=sizes[min(len(sizes) - 1, int(0.9 * len(sizes)))],
        inside=sum(inside) / len(found),
    )


def spreads(found: Sequence[Error], key: Callable[[Row], str]) -> dict[str, Spread]:
    """Those of the groups that `key` names, the worst median first."""
    groups: dict[str, list[Error]] = {}
    for row, error in found:
        groups.setdefault(key(row), []).append((row, error))
    each = {name: spread(errors) for name, errors in groups.items()}
    return dict(sorted(each.items(), key=lambda one: -one[1].median))


def errors(data: Sequence[Row], fit: Fit) -> list[Error]:
    """Every row with estimate / measured - 1; -1 where not one request was thought to fit."""
    return [(row, row.estimate(fit) / row.measured - 1) for row in data]


def is_dense(row: Row) -> bool:
    """Whether the model has no experts."""
    return row.engine.shapes.model.moe is None


class Measured:
    """What is known of a fit's errors."""

    def __init__(self, fit: Fit) -> None:
        self.fit = fit

    @cached_property
    def calibrated(self) -> list[Error]:
        """Of the rows that the fit saw."""
        return errors(rows("calibration"), self.fit)

    @cached_property
    def checked(self) -> list[Error]:
        """Of the rows of families that it did not see."""
        return errors(rows("check"), self.fit)

    @property
    def dense(self) -> list[Error]:
        """Those of models without experts."""
        return [one for one in self.checked if is_dense(one[0])]

    @property
    def mixtral(self) -> list[Error]:
        """Those of models with experts."""
        return [one for one in self.checked if not is_dense(one[0])]

    @cached_property
    def experts(self) -> list[Error]:
        """Of Qwen3 with experts."""
        return errors(rows("experts"), self.fit)

    @cached_property
    def experts_calibrated(self) -> list[Error]:
        """Of the rows of Qwen3 that the fit saw."""
        return errors(rows("experts_calibration"), self.fit)

    @cached_property
    def architectures(self) -> list[Error]:
        """Of architectures that nothing was fitted to."""
        return errors(rows("architectures"), self.fit)

    @cached_property
    def coverage(self) -> tuple[Covered, ...]:
        """Of tokens/s, of the time to the first token and of the time per token."""
        return (
            covered("tokens/s", throughput_residuals(self.fit)),
            covered("time to first token", time_residuals(self.fit, "ttft_ms")),
            covered("time per token", time_residuals(self.fit, "tpot_ms")),
        )

    @cached_property
    def orders(self) -> dict[tuple[str, bool], Orders]:
        """Of calibration and check data, by tokens/s (False) and by tokens/s per GPU (True)."""
        bands = calibration().bands
        return {
            (name, per_gpu): orders(found, per_gpu=per_gpu, bands=bands)
            for name, found in (("calibration", self.calibrated), ("check", self.dense))
            for per_gpu in (False, True)
        }

    @cached_property
    def times(self) -> list[Found]:
        """The estimates of the times measured under load."""
        return estimates(self.fit, latency_rows())

    @cached_property
    def beside(self) -> tuple[Beside, ...]:
        """The errors of those times beside aiconfigurator's."""
        return beside(self.times)

    @cached_property
    def first_tokens(self) -> list[tuple[Row, float, float]]:
        """Of one request alone: the row, the measured and the estimated milliseconds."""
        return [(row, ms, first_token_ms(row, self.fit)) for row, ms in first_tokens()]
