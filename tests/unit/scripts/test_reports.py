"""Plots and pages: values stand where their axis says, and nothing a page holds can break it."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from scripts.reports.axes import category_axis, format_number, linear_axis, log_axis
from scripts.reports.svg import Bar, Point, Series, bar_plot, line_plot


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([3.0, 47.0], (0, 10, 20, 30, 40, 50)),
        ([0.0, 0.9], (0, 0.2, 0.4, 0.6, 0.8, 1.0)),
        ([-4.0, 6.0], (-4, -2, 0, 2, 4, 6)),
        ([0.0], (0, 0.2, 0.4, 0.6, 0.8, 1.0)),
    ],
)
def test_linear_ticks_are_round_and_enclose_the_values(values: list[float], ticks: tuple[float, ...]) -> None:
    axis = linear_axis("x", values, start=0, stop=100)
    assert axis.ticks == pytest.approx(ticks)
    assert axis.place(axis.ticks[0]) == 0
    assert axis.place(axis.ticks[-1]) == pytest.approx(100)


def test_a_log_axis_gives_each_factor_the_same_length() -> None:
    axis = log_axis("x", [1, 100], start=10, stop=210)
    assert axis.ticks == pytest.approx((1, 2, 5, 10, 20, 50, 100))
    assert (axis.place(1), axis.place(10), axis.place(100)) == pytest.approx((10, 110, 210))
    with pytest.raises(ValueError, match="logarithmic"):
        log_axis("x", [0, 1], start=0, stop=1)


def test_a_category_axis_has_a_tick_at_each_value_and_no_other() -> None:
    axis = category_axis("x", [8, 1, 2, 2], start=0, stop=100)
    assert axis.ticks == (1, 2, 8)
    assert axis.place(2) - axis.place(1) == pytest.approx((axis.place(8) - axis.place(2)) / 2)


def test_no_axis_without_values_or_with_infinite_ones() -> None:
    for values in ([], [float("nan")], [float("inf")]):
        with pytest.raises(ValueError, match=r"no values|not finite"):
            linear_axis("x", values, start=0, stop=1)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1234.4, "1,234"),
        (99.96, "100"),
        (12.345, "12.3"),
        (0.01234, "0.0123"),
        (1.2e-7, "0.000000120"),
        (3e-15, "3.00e-15"),
    ],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert format_number(value) == text


def _plot() -> ElementTree.Element:
    series = (
        Series("tp1", (Point(1, 10, 8, 12), Point(2, 20))),
        Series("<tp2 & more>", (Point(1, 5),)),
        Series("empty", ()),
    )
    return ElementTree.fromstring(
        line_plot(series, title="T", x_label="concurrency", y_label="ms", x_scale="categories",
                  limits=(("SLO", 15),))
    )  # fmt: skip


def test_a_line_joins_its_points_where_the_axes_put_them() -> None:
    found = _plot().find("polyline")
    assert found is not None
    (x1, y1), (x2, y2) = (tuple(map(float, pair.split(","))) for pair in found.attrib["points"].split())
    # 0 to 20 on the vertical axis: ten is half way between the axis' line and the top.
    ticks = {text.text: float(text.attrib["y"]) - 4 for text in _plot().iter("text") if "y" in text.attrib}
    assert y1 == pytest.approx((ticks["0"] + y2) / 2, abs=0.1)
    assert (y2, ticks["20"]) == (pytest.approx(14, abs=0.1), pytest.approx(14, abs=0.1))
    assert x1 < x2


def test_intervals_of_several_series_stand_beside_each_other() -> None:
    names = "abc"
    series = [Series(name, (Point(1, 5, 4, 6), Point(2, 5, 4, 6)), joined=False) for name in names]
    root = ElementTree.fromstring(
        line_plot(series, title="T", x_label="x", y_label="y", x_scale="categories")
    )
    starts = [path.attrib["d"].split()[0] for path in root.iter("path") if path.attrib.get("fill") == "none"]
    first = [float(start[1:]) for start in starts[::2]]
    assert [round(right - left, 1) for left, right in pairwise(first)] == [7, 7]


def test_every_point_says_its_value_and_interval() -> None:
    said = [title.text for title in _plot().iter("title")]
    assert said == [
        "T",
        "tp1, concurrency 1: ms 10.0 [8.00, 12.0]",
        "tp1, concurrency 2: ms 20.0",
        "<tp2 & more>, concurrency 1: ms 5.00",
    ]


def test_series_differ_by_marker_and_dash_not_by_colour_alone() -> None:
    shapes = [
        re.sub(r"[-\d. ]", "", path.attrib["d"]) for path in _plot().iter("path") if "fill" in path.attrib
    ]
    assert len(set(shapes)) >= 3  # circle, square and whisker


def test_a_plot_of_nothing_says_so() -> None:
    assert "nothing was measured" in line_plot([], title="T", x_label="", y_label="")
    assert "nothing was measured" in bar_plot([], title="T", x_label="")


def test_stacked_bars_start_where_the_one_before_ends() -> None:
    bars = [Bar("a", (("weights", 30), ("kv", 20)), "50 GiB", low=45, high=55), Bar("b", (("kv", 10),), "10")]
    root = ElementTree.fromstring(bar_plot(bars, title="T", x_label="GiB", limits=(("GPU", 80),)))
    boxes = [rect for rect in root.iter("rect") if rect.attrib["height"] == "14"]
    first, second, third = ((float(r.attrib["x"]), float(r.attrib["width"])) for r in boxes)
    assert first[0] + first[1] == pytest.approx(second[0], abs=0.11)
    assert (second[1] / first[1], third[1] / first[1]) == pytest.approx((2 / 3, 1 / 3), abs=0.01)
    assert boxes[1].attrib["fill"] == boxes[2].attrib["fill"] != boxes[0].attrib["fill"]
