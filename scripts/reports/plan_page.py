"""The page of a plan: the decision, memory stacks, speed plots, every option and every rejection.

It needs nothing beside itself: plots are inline SVG, and there is no script.
"""

from __future__ import annotations

from typing import Any

from scripts.reports.page import inline, render_html
from scripts.reports.plan import (
    FRONTIER_HEADER,
    OPTION_HEADER,
    basis_text,
    frontier_rows,
    headline,
    memory_parts,
    option_cells,
    rejected_rows,
    summary_rows,
    undecided_text,
)
from scripts.reports.svg import Bar, Point, Series, bar_plot, line_plot
from tpforge import __version__
from tpforge.plan.choice.choose import Plan
from tpforge.plan.options.option import Option
from tpforge.units import GIB, counted

_STACKS = 8
_POINTS = 8
"""Options of a plot: more lie upon each other."""
_TRADE = "Tokens/s per GPU against time per token"


def plan_html(plan: Plan) -> str:
    """The page."""
    return render_html("plan.html.j2", _values(plan))


def _values(plan: Plan) -> dict[str, Any]:
    memory, band = plan.chosen.memory, plan.chosen.band
    assert memory is not None and band is not None
    return {
        "title": headline(plan),
        "summary": summary_rows(plan),
        "basis": basis_text(band),
        "warnings": [one.text for one in plan.advice if one.level == "warning"],
        "notes": [one.text for one in plan.advice if one.level == "note"],
        "undecided": undecided_text(plan),
        "frontier_header": FRONTIER_HEADER,
        "frontier": frontier_rows(plan),
        "figures": [(caption, inline(plot)) for caption, plot in _figures(plan)],
        "lines": [
            (line.name, f"{line.num_bytes / GIB:.2f}", line.basis, line.formula, line.source)
            for line in memory.lines
        ],
        "free": f"{memory.free_bytes / GIB:.2f}",
        "kv": f"{memory.kv_bytes / GIB:.2f}",
        "fraction": memory.kv_fraction,
        "header": OPTION_HEADER,
        "options": [option_cells(one) for one in plan.working],
        "instead": [(one.model, option_cells(one)) for one in plan.instead],
        "rejected": rejected_rows(plan.rejected),
        "num_rejected": len(plan.rejected),
        "version": __version__,
    }


def _figures(plan: Plan) -> list[tuple[str, str]]:
    return [
        ("Memory of the fullest rank, GiB", _memory(plan)),
        (_TRADE if plan.frontier else f"{_TRADE}: the {min(_POINTS, len(plan.working))} best", _trade(plan)),
        ("Tokens/s by tensor parallelism", _scaling(plan)),
        ("Share of a step that is communication", _communication(plan)),
    ]


def _memory(plan: Plan) -> str:
    """Stacks of the best option of each mapping and precision of weights."""
    best: dict[tuple[object, ...], Option] = {}
    for one in plan.working:
        best.setdefault((one.mapping, one.precision), one)
    bars = []
    for one in list(best.values())[:_STACKS]:
        assert one.memory is not None
        parts = [(name, size / GIB) for name, size in memory_parts(one.memory)]
        bars.append(Bar(one.label, tuple(parts), f"{one.memory.gpu.memory_bytes / GIB:.1f}"))
    return bar_plot(bars, title="Memory of the fullest rank", x_label="GiB")


def _trade(plan: Plan) -> str:
    """The front of all loads, with the point that is taken; of a stated load the best options."""
    if plan.frontier:
        return _front(plan)
    options = [one for one in plan.working[:_POINTS] if one.speed is not None]
    series = [
        Series(precision, tuple(_point(one) for one in options if one.precision == precision), joined=False)
        for precision in dict.fromkeys(one.precision for one in options)
    ]
    return line_plot(
        series,
        title=_TRADE,
        x_label="ms per token (one user)",
        y_label="output tokens/s per GPU",
        x_scale="log",
    )


def _point(option: Option) -> Point:
    assert option.speed is not None
    low, high = option.tokens_between
    return Point(
        option.speed.tpot_ms / option.scale,
        option.tokens_per_gpu,
        low=low / option.num_gpus,
        high=high / option.num_gpus,
        label=option.label,
    )


def _label(option: str, batch: int) -> str:
    return f"{option}, {counted(batch, 'request')} per replica"


def _front(plan: Plan) -> str:
    """What a user's speed costs: a point for each load at which no option beats another in both."""
    front = tuple(
        Point(1e3 / one.user, one.gpu, label=_label(one.option.label, one.batch)) for one in plan.frontier
    )
    return line_plot(
        [Series("Pareto front", front), Series("taken", (_point(plan.chosen),), joined=False)],
        title=_TRADE,
        x_label="ms per token (one user)",
        y_label="output tokens/s per GPU",
        x_scale="log",
    )


def _curve(plan: Plan) -> list[tuple[str, list[Option]]]:
    """By precision, the options without pipeline stages and with the chosen cache, in the order of tp."""
    found: dict[str, list[Option]] = {}
    for one in plan.options:
        plain = one.mapping.pp_size == 1 and one.mapping.moe_ep_size == 1
        own_cache = one.kv_dtype == plan.chosen.kv_dtype
        if one.rejection is None and plain and own_cache:
            found.setdefault(one.precision, []).append(one)
    return list(found.items())


def _scaling(plan: Plan) -> str:
    series = []
    for precision, options in _curve(plan):
        points = []
        for one in options:
            assert one.band is not None and one.speed is not None
            tokens = one.scale * one.speed.tokens_per_second
            points.append(
                Point(
                    one.mapping.tp_size,
                    tokens,
                    low=tokens * one.band.low,
                    high=tokens * one.band.high,
                    label=one.label,
                )
            )
        series.append(Series(precision, tuple(points)))
    return line_plot(
        series,
        title="Tokens/s of one replica by tensor parallelism",
        x_label="tp of one replica",
        y_label="output tokens/s",
        x_scale="categories",
    )


def _communication(plan: Plan) -> str:
    series = [
        Series(
            precision,
            tuple(
                Point(one.mapping.tp_size, 100 * one.speed.communication_share, label=one.label)
                for one in options
                if one.speed is not None
            ),
        )
        for precision, options in _curve(plan)
    ]
    return line_plot(
        series,
        title="Share of a step that is communication",
        x_label="tp of one replica",
        y_label="% of a step",
        x_scale="categories",
    )
