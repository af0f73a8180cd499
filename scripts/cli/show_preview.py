"""Shows what a measurement would do, and the smallest change that it could see."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from scripts.cli.output import Output
from scripts.reports.columns import table

if TYPE_CHECKING:
    from scripts.flows.benching.preview import Preview


def print_preview(output: Output, preview: Preview) -> None:
    """The plan in lines, and a table of what it could see."""
    repeats = f"{preview.num_repeats} repeats"
    if preview.num_earlier:
        repeats += f", and {preview.num_earlier} of the run that they are joined to"
    output.result(f"server   {preview.url}")
    output.result(f"loads    {', '.join(preview.loads)}; {repeats}")
    output.result(f"repeat   {preview.repeat}")
    output.result(f"prompts  {preview.prompts}")
    if preview.least_s is not None:
        output.result(f"time     at least {preview.least_s:.0f} s")
    output.result(f"p95      takes {preview.num_for_p95} requests of a load, all repeats together")
    output.result("")
    output.result("tokens/s of two such runs in turns (--join): the change that 4 of 5 comparisons would see")
    rows = [[f"{100 * one.noise:.2g} %", _change(one.smallest), one.where] for one in preview.seen]
    output.result(table(rows, header=("noise of a repeat", "smallest change", "the noise is")))
    output.record("bench_preview", asdict(preview))


def _change(smallest: float | None) -> str:
    """``+11 %``; a single repeat sees none."""
    if smallest is None:
        return "none: give --repeats 2 or more"
    return f"{100 * smallest:+.{0 if smallest > 0.1 else 1}f} %"
