"""`tpforge compare`: runs side by side, with a verdict per metric."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scripts.cli.options.common import DEBUG, FORCE, JSON, PRIMARY, Amount, Decorator, out_option
from scripts.cli.output import Output
from scripts.reports.columns import table

if TYPE_CHECKING:
    from tpforge.measure.comparison.compare import Comparison
    from tpforge.measure.runs.found_runs import FoundRun

_PERCENT = Amount(min=0)


def _gate(name: str, help_text: str) -> Decorator:
    return click.option(f"--max-{name}", type=_PERCENT, metavar="PERCENT", help=help_text)


@click.command("compare")
@click.argument("names", metavar="RUN RUN...", nargs=-1, required=True)
@out_option("Write comparison.json, .md and .html into this folder.")
@FORCE
@click.option(
    "--hourly-cost",
    "prices",
    multiple=True,
    metavar="[RUN=]AMOUNT",
    help="Price of an hour of all that the run uses, for the cost of a million tokens; may be repeated.",
)
@click.option(
    "--plan",
    "plan_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="What `tpforge plan --json` printed: its estimates beside what was measured.",
)
@PRIMARY
@_gate("throughput-drop", "Fail when throughput is lower by more.")
@_gate("p95-increase", "Fail when a p95 latency is higher by more.")
@_gate("error-increase", "Fail when the share of failed requests is higher by more (points).")
@_gate("memory-increase", "Fail when the memory of the fullest GPU is higher by more.")
@_gate("cost-increase", "Fail when the cost of a million tokens is higher by more.")
@_gate("quality-drop", "Fail when quality is worse by more (points).")
@JSON
@DEBUG
def command(
    names: tuple[str, ...],
    out: Path | None,
    force: bool,
    prices: tuple[str, ...],
    plan_file: Path | None,
    primary: str,
    as_json: bool,
    **limits: float | None,
) -> None:
    """Show runs side by side, with a verdict per metric.

    RUN is a folder with a run.json, or an id under out/NAME/runs/; the first is the baseline. A
    difference that may be chance is undecided, and so is one between runs that were not measured in turns
    (tpforge bench --join). Names the variables that changed, and gains that hide a loss. A limit is kept when
    the whole interval of the loss is within it. Exit status 7 when it is not, 4 when it could not be checked.
    """
    from scripts.flows.compare import compare, write_comparison
    from tpforge.measure.comparison.gates import apply_gates
    from tpforge.measure.comparison.verdicts import Primary

    output = Output(as_json=as_json)
    compared = compare(names, prices=prices, plan_file=plan_file, primary=Primary.parse(primary))
    found = compared.found
    for note in compared.plan_notes:
        output.note(f"plan: {note}")
    for comparison in found.comparisons:
        output.result(_text(comparison, compared.runs))
    if out is not None:
        write_comparison(out, compared, force=force)
        output.note(f"wrote {out / 'comparison.html'}, .md and .json")
    fields = json.loads(found.model_dump_json())
    fields.pop("schema_version")
    output.record("comparison", fields)
    given = {name.removeprefix("max_").replace("_", "-"): limit for name, limit in limits.items()}
    wanted = {name: limit for name, limit in given.items() if limit is not None}
    for line in apply_gates(found.comparisons, wanted).kept:
        output.note(f"kept: {line}")


def _text(comparison: Comparison, runs: tuple[FoundRun, ...]) -> str:
    """One comparison on a terminal."""
    from scripts.reports.comparison import (
        HEADER,
        PREDICTED_HEADER,
        cells,
        change_line,
        groups,
        predicted_lines,
    )
    from scripts.reports.values import run_name

    names = {one.run.id: run_name(one.run) for one in runs}
    variables = comparison.variables
    lines = [
        f"baseline   {names[comparison.baseline]}",
        f"candidate  {names[comparison.candidate]}",
        variables.verdict,
        *(f"  {change_line(change)}" for change in (*variables.changed, *variables.followed)),
    ]
    if variables.unknown:
        unread = ", ".join(dict.fromkeys(item.name for item in variables.unknown))
        lines.append(f"not read, may differ unseen: {unread}")
    for title, rows in groups(comparison):
        lines += ["", title, table([cells(row) for row in rows], header=HEADER)]
    if predicted := predicted_lines(comparison):
        lines += ["", table(predicted, header=PREDICTED_HEADER)]
    lines += ["", *(f"risk: {risk}" for risk in comparison.risks)]
    lines += [f"note: {note}" for note in comparison.notes]
    return "\n".join(lines).rstrip() + "\n"
