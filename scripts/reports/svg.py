"""Plots as inline SVG: lines with intervals, and bars; readable at the width of a phone and in print.

A series has a colour, a marker and a dash of its own, so that a plot can be read without colours. Every
point says its value on hover (`<title>`). No script, no font, no address: a plot is a string.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scripts.reports.axes import Axis, category_axis, format_number, linear_axis, log_axis, tick_text
from scripts.reports.texts import escaped

WIDTH, PLOT_HEIGHT = 420, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 14, 44
_LEGEND_LINE, _BAR_LINE, _SHIFT = 18, 26, 7
COLOURS = ("#0b62a4", "#c4480b", "#2a7f3f", "#8a3b96", "#7a5c00", "#4d4d4d", "#b0224f", "#007a87")
_DASHES = ("", "6 3", "2 3", "8 3 2 3", "", "6 3", "2 3", "8 3 2 3")
_MARKERS = ("circle", "square", "triangle", "diamond", "square", "triangle", "diamond", "circle")
Scale = Literal["linear", "log", "categories"]


@dataclass(frozen=True)
class Point:
    """A point; `low` and `high` are the ends of the interval of `y`, `label` what hovering says of it."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    label: str = ""


@dataclass(frozen=True)
class Series:
    """Points of one name, joined by a line unless `joined` is false."""

    name: str
    points: tuple[Point, ...]
    joined: bool = True


@dataclass(frozen=True)
class Bar:
    """One bar: parts that lie end to end by name, and what is written after it.

    `low` and `high` are the ends of an interval of the whole.
    """

    name: str
    parts: tuple[tuple[str, float], ...]
    text: str
    low: float | None = None
    high: float | None = None


def line_plot(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str,
    x_scale: Scale = "linear",
    y_scale: Literal["linear", "log"] = "linear",
    limits: Sequence[tuple[str, float]] = (),
) -> str:
    """Series over a common x; `limits` are named horizontal lines, such as an SLO.

    A plot without points is a sentence that says so.
    """
    shown = [item for item in series if item.points]
    if not shown:
        return _nothing(title)
    xs = [point.x for item in shown for point in item.points]
    bottom, right = _TOP + PLOT_HEIGHT - _BOTTOM, WIDTH - _RIGHT
    x_axis = _x_axis(x_label, xs, x_scale, right)
    y_axis = _y_axis(y_label, [*_heights(shown), *(value for _, value in limits)], y_scale, bottom)
    drawn = [_grid(x_axis, y_axis)]
    drawn += [_limit(name, value, y_axis, right) for name, value in limits]
    shifts = _shifts(shown, x_scale)
    drawn += [_series(item, index, x_axis, y_axis, shifts[index]) for index, item in enumerate(shown)]
    legend = [_legend_line(item.name, index) for index, item in enumerate(shown)]
    return _svg(title, "".join([*drawn, *legend]), _TOP + PLOT_HEIGHT + _LEGEND_LINE * len(shown))


def bar_plot(
    bars: Sequence[Bar], *, title: str, x_label: str, limits: Sequence[tuple[str, float]] = ()
) -> str:
    """Horizontal bars, each with its name above it, so that long names need no room beside it."""
    if not bars:
        return _nothing(title)
    ends = [_end(bar) for bar in bars]
    ends += [value for bar in bars for value in (bar.low, bar.high) if value is not None]
    axis = linear_axis(x_label, [*ends, *(value for _, value in limits)], start=8, stop=WIDTH - 70)
    names = list(dict.fromkeys(name for bar in bars for name, _ in bar.parts))
    bottom = _TOP + len(bars) * (_BAR_LINE + 12)
    drawn = [_bar_grid(axis, bottom)]
    for index, bar in enumerate(bars):
        drawn.append(_bar(bar, _TOP + index * (_BAR_LINE + 12), axis, names))
    for name, value in limits:
        x = axis.place(value)
        drawn.append(
            f'<line class="limit" x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom}"/>'
            f'<text x="{x - 4:.1f}" y="{bottom - 4}" class="end">{escaped(name)}</text>'
        )
    height = bottom + _BOTTOM
    if len(names) > 1:
        for index, name in enumerate(names):
            drawn.append(_swatch(name, index, height + _LEGEND_LINE * index))
        height += _LEGEND_LINE * len(names)
    return _svg(title, "".join(drawn), height)


def _x_axis(label: str, values: Sequence[float], scale: Scale, right: float) -> Axis:
    match scale:
        case "linear":
            return linear_axis(label, values, start=_LEFT, stop=right)
        case "log":
            return log_axis(label, values, start=_LEFT, stop=right)
        case "categories":
            return category_axis(label, values, start=_LEFT, stop=right)


def _y_axis(label: str, values: Sequence[float], scale: str, bottom: float) -> Axis:
    make = linear_axis if scale == "linear" else log_axis
    return make(label, values, start=bottom, stop=_TOP)


def _heights(series: Sequence[Series]) -> list[float]:
    points = [point for item in series for point in item.points]
    return [value for point in points for value in (point.y, point.low, point.high) if value is not None]


def _grid(x_axis: Axis, y_axis: Axis) -> str:
    left, right, bottom, top = x_axis.start, x_axis.stop, y_axis.start, y_axis.stop
    parts = []
    for tick in y_axis.ticks:
        y = y_axis.place(tick)
        parts.append(f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        parts.append(f'<text class="end" x="{left - 6}" y="{y + 4:.1f}">{tick_text(tick)}</text>')
    last = -math.inf
    for tick in x_axis.ticks:
        x = x_axis.place(tick)
        parts.append(f'<line class="axis" x1="{x:.1f}" y1="{bottom}" x2="{x:.1f}" y2="{bottom + 4}"/>')
        if x - last >= 30:
            parts.append(f'<text class="middle" x="{x:.1f}" y="{bottom + 17}">{tick_text(tick)}</text>')
            last = x
    middle = (top + bottom) / 2
    parts.append(f'<line class="axis" x1="{left}" y1="{bottom}" x2="{right}" y2="{bottom}"/>')
    parts.append(
        f'<text class="middle" x="{(left + right) / 2}" y="{bottom + 36}">{escaped(x_axis.label)}</text>'
    )
    parts.append(
        f'<text class="middle" transform="translate(13 {middle}) rotate(-90)">{escaped(y_axis.label)}</text>'
    )
    return "".join(parts)


def _limit(name: str, value: float, y_axis: Axis, right: float) -> str:
    y = y_axis.place(value)
    return (
        f'<line class="limit" x1="{_LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>'
        f'<text class="end" x="{right - 4}" y="{y - 4:.1f}">{escaped(name)}</text>'
    )


def _shifts(series: Sequence[Series], scale: Scale) -> list[float]:
    """Pixels by which series stand beside each other at a category, where they have intervals."""
    if scale != "categories" or not any(point.low is not None for item in series for point in item.points):
        return [0.0] * len(series)
    return [_SHIFT * (index - (len(series) - 1) / 2) for index in range(len(series))]


def _series(series: Series, index: int, x_axis: Axis, y_axis: Axis, shift: float) -> str:
    colour = COLOURS[index % len(COLOURS)]
    places = [(x_axis.place(point.x) + shift, y_axis.place(point.y)) for point in series.points]
    parts = []
    if series.joined and len(places) > 1:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        dash = f' stroke-dasharray="{found}"' if (found := _DASHES[index % len(_DASHES)]) else ""
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
    for point, (x, y) in zip(series.points, places, strict=True):
        if point.low is not None and point.high is not None:
            parts.append(_whisker(x, y_axis.place(point.low), y_axis.place(point.high), colour))
        parts.append(_marker(index, x, y, _said(series.name, point, x_axis, y_axis)))
    return "".join(parts)


def _whisker(x: float, low: float, high: float, colour: str) -> str:
    path = f"M{x:.1f} {low:.1f}V{high:.1f}M{x - 4:.1f} {low:.1f}h8M{x - 4:.1f} {high:.1f}h8"
    return f'<path d="{path}" stroke="{colour}" fill="none"/>'


def _said(name: str, point: Point, x_axis: Axis, y_axis: Axis) -> str:
    interval = ""
    if point.low is not None and point.high is not None:
        interval = f" [{format_number(point.low)}, {format_number(point.high)}]"
    where = f"{x_axis.label} {tick_text(point.x)}: {y_axis.label} {format_number(point.y)}{interval}"
    return f"{name}, {point.label + ', ' if point.label else ''}{where}"


def _marker(index: int, x: float, y: float, said: str = "") -> str:
    colour = COLOURS[index % len(COLOURS)]
    title = f"<title>{escaped(said)}</title>" if said else ""
    shapes = {
        "circle": f"M{x - 4:.1f} {y:.1f}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
        "square": f"M{x - 3.5:.1f} {y - 3.5:.1f}h7v7h-7z",
        "triangle": f"M{x:.1f} {y - 4.5:.1f}l4.5 8h-9z",
        "diamond": f"M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z",
    }
    return f'<path d="{shapes[_MARKERS[index % len(_MARKERS)]]}" fill="{colour}">{title}</path>'


def _legend_line(name: str, index: int) -> str:
    y = _TOP + PLOT_HEIGHT + _LEGEND_LINE * index
    colour, dash = COLOURS[index % len(COLOURS)], _DASHES[index % len(_DASHES)]
    return (
        f'<line x1="{_LEFT}" y1="{y}" x2="{_LEFT + 28}" y2="{y}" stroke="{colour}" stroke-width="2"'
        f' stroke-dasharray="{dash or "none"}"/>{_marker(index, _LEFT + 14, y)}'
        f'<text x="{_LEFT + 36}" y="{y + 4}">{escaped(name)}</text>'
    )


def _bar_grid(axis: Axis, bottom: float) -> str:
    parts = []
    for tick in axis.ticks:
        x = axis.place(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom}"/>')
        parts.append(f'<text class="middle" x="{x:.1f}" y="{bottom + 15}">{tick_text(tick)}</text>')
    middle = (axis.start + axis.stop) / 2
    parts.append(f'<text class="middle" x="{middle}" y="{bottom + 33}">{escaped(axis.label)}</text>')
    return "".join(parts)


def _end(bar: Bar) -> float:
    return sum(value for _, value in bar.parts)


def _bar(bar: Bar, top: float, axis: Axis, names: Sequence[str]) -> str:
    parts = [f'<text x="{axis.start}" y="{top + 11}">{escaped(bar.name)}</text>']
    at = 0.0
    for name, value in bar.parts:
        x, stop = axis.place(at), axis.place(at + value)
        colour = COLOURS[names.index(name) % len(COLOURS)]
        said = escaped(f"{bar.name}, {name}: {format_number(value)}")
        parts.append(
            f'<rect x="{min(x, stop):.1f}" y="{top + 15}" width="{abs(stop - x):.1f}" height="14"'
            f' fill="{colour}"><title>{said}</title></rect>'
        )
        at += value
    end = axis.place(at)
    if bar.low is not None and bar.high is not None:
        low, high, y = axis.place(bar.low), axis.place(bar.high), top + 22
        path = f"M{low:.1f} {y}H{high:.1f}M{low:.1f} {y - 4}v8M{high:.1f} {y - 4}v8"
        parts.append(f'<path class="whisker" d="{path}"/>')
        end = max(end, high)
    parts.append(f'<text x="{end + 6:.1f}" y="{top + 26}">{escaped(bar.text)}</text>')
    return "".join(parts)


def _swatch(name: str, index: int, y: float) -> str:
    colour = COLOURS[index % len(COLOURS)]
    return (
        f'<rect x="8" y="{y - 9}" width="12" height="12" fill="{colour}"/>'
        f'<text x="26" y="{y + 1}">{escaped(name)}</text>'
    )


def _nothing(title: str) -> str:
    return f'<p class="plot nothing">{escaped(title)}: nothing was measured for it.</p>'


def _svg(title: str, inside: str, height: float) -> str:
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escaped(title)}">'
        f"<title>{escaped(title)}</title>{inside}</svg>"
    )
