"""Runs by their names to a comparison and its pages: composes tpforge.measure, a plan and the reports.

It prints nothing; what is compared is `tpforge.measure.comparison.compare`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.reports.comparison import comparison_html, comparison_markdown
from tpforge.measure.comparison.compare import ComparisonSet, compare_all
from tpforge.measure.comparison.expected import with_plan
from tpforge.measure.comparison.verdicts import DEFAULT_PRIMARY, Primary
from tpforge.measure.decisions.cost import read_prices
from tpforge.measure.evaluation import with_paired_quality
from tpforge.measure.runs.found_runs import FoundRun, find_runs
from tpforge.outputs.atomic import write_texts
from tpforge.plan.record import read_plan


@dataclass(frozen=True)
class Compared:
    """Runs, all of them compared with the first, and what the plan says nothing of."""

    runs: tuple[FoundRun, ...]
    found: ComparisonSet
    plan_notes: tuple[str, ...]


def compare(
    names: Sequence[str],
    *,
    prices: Sequence[str] = (),
    plan_file: Path | None = None,
    primary: Primary = DEFAULT_PRIMARY,
) -> Compared:
    """The runs of these names against the first, with the estimates of a plan where one is given.

    Raises:
        UsageError: a run is missing or given twice, there is but one, or a price is none.
        InputRefused: a run or the plan is broken.
    """
    runs = with_paired_quality(find_runs(names))
    notes: tuple[str, ...] = ()
    if plan_file is not None:
        runs, notes = with_plan(runs, read_plan(plan_file))
    found = compare_all([one.run for one in runs], prices=read_prices(prices, runs), primary=primary)
    return Compared(runs, found, notes)


def write_comparison(folder: Path, compared: Compared, *, force: bool = False) -> None:
    """Write comparison.json, .md and .html into a folder, which appears whole.

    Raises:
        InputRefused: the folder exists and `force` is not given.
    """
    by_id = {one.run.id: one.run for one in compared.runs}
    texts = {
        "comparison.json": compared.found.model_dump_json(indent=2) + "\n",
        "comparison.md": comparison_markdown(compared.found, by_id),
        "comparison.html": comparison_html(compared.found, by_id),
    }
    write_texts(folder, texts, force=force)
