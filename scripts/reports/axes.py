"""Where a value lies on a plot: round ticks, linear and logarithmic scales.

It draws nothing; `svg` does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["linear", "log"]
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_DECADE = (1.0, 2.0, 5.0)
_MOST_DIGITS = 9


@dataclass(frozen=True)
class Axis:
    """An axis from `low` to `high` in data units, drawn from `start` to `stop` in pixels."""

    label: str
    kind: Kind
    low: float
    high: float
    start: float
    stop: float
    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        """The pixel of a value; one outside the axis is put on its end."""
        inside = min(max(value, self.low), self.high)
        if self.kind == "log":
            share = math.log(inside / self.low) / math.log(self.high / self.low)
        else:
            share = (inside - self.low) / (self.high - self.low)
        return self.start + share * (self.stop - self.start)


def linear_axis(
    label: str, values: Sequence[float], *, start: float, stop: float, from_zero: bool = True
) -> Axis:
    """An axis with about five round ticks that holds all `values`; from zero unless told otherwise.

    Raises:
        ValueError: there are no values, or one is not finite.
    """
    _check(values)
    low, high = min(values), max(values)
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        low, high = (0.0, 1.0) if low == 0 else (low - abs(low) / 2, high + abs(high) / 2)
    step = _round_step((high - low) / 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(index * step for index in range(first, last + 1))
    return Axis(label, "linear", ticks[0], ticks[-1], start, stop, ticks)


def log_axis(label: str, values: Sequence[float], *, start: float, stop: float) -> Axis:
    """An axis of decades with ticks at 1, 2 and 5 (only at 1 over more than three decades).

    Raises:
        ValueError: a value is not above zero, or there is none.
    """
    _check(values)
    if min(values) <= 0:
        raise ValueError(f"{min(values)} has no place on a logarithmic axis")
    first, last = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    marks = _DECADE if last - first <= 3 else (1.0,)
    ticks = [mark * 10.0**power for power in range(first, last + 1) for mark in marks]
    low = max((tick for tick in ticks if tick <= min(values) * (1 + 1e-9)), default=ticks[0])
    high = min((tick for tick in ticks if tick >= max(values) * (1 - 1e-9)), default=ticks[-1])
    if low == high:
        low, high = low / 2, high * 2
    return Axis(label, "log", low, high, start, stop, tuple(tick for tick in ticks if low <= tick <= high))


def category_axis(label: str, values: Sequence[float], *, start: float, stop: float) -> Axis:
    """An axis by powers of two, as concurrencies and TP sizes are: a tick at each of the `values`.

    Raises:
        ValueError: a value is not above zero, or there is none.
    """
    _check(values)
    if min(values) <= 0:
        raise ValueError(f"{min(values)} has no place on a logarithmic axis")
    low, high = min(values) / 1.25, max(values) * 1.25
    return Axis(label, "log", low, high, start, stop, tuple(sorted(set(values))))


def format_number(value: float) -> str:
    """A number for a tick or a table: three significant digits, thousands grouped, an exponent below 1e-7."""
    if value == 0:
        return "0"
    size = abs(float(f"{value:.3g}"))
    if size >= 100:
        return f"{value:,.0f}"
    digits = 2 - math.floor(math.log10(size))
    return f"{value:.{digits}f}" if digits <= _MOST_DIGITS else f"{value:.2e}"


def tick_text(value: float) -> str:
    """A number for a tick: as `format_number`, without trailing zeros."""
    text = format_number(value)
    return text.rstrip("0").rstrip(".") if "." in text else text


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in _STEPS if step * power >= rough * (1 - 1e-9))


def _check(values: Sequence[float]) -> None:
    if not values:
        raise ValueError("no values to make an axis for")
    if not all(math.isfinite(value) for value in values):
        raise ValueError("a value is not finite")
