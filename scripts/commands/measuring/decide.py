"""`tpforge decide`: a decision record from measured runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from scripts.cli.options.common import DEBUG, FORCE, JSON, PRIMARY, SIZE, Amount, Decorator, out_option
from scripts.cli.output import Output
from tpforge.measure.comparison.limits import Limits
from tpforge.measure.decisions.decision import Production, Request

_POSITIVE = Amount(min=0, min_open=True)


def _limit(name: str, help_text: str) -> Decorator:
    return click.option(name, type=_POSITIVE, metavar="NUMBER", help=help_text)


@click.command("decide")
@click.argument("names", metavar="RUN RUN...", nargs=-1, required=True)
@click.option(
    "--recommend", required=True, metavar="RUN", help="The id, label or folder of the run to choose."
)
@click.option("--fallback", required=True, metavar="RUN", help="The run to go back to.")
@click.option("--because", required=True, metavar="TEXT", help="Why.")
@click.option(
    "--question",
    default="Which engine should be served?",
    show_default=True,
    metavar="TEXT",
    help="What is asked.",
)
@click.option("--trigger", default="", metavar="TEXT", help="What would make you take the fallback.")
@click.option("--bottleneck", default="", metavar="TEXT", help="What limits the present system, in numbers.")
@click.option("--complexity", default="", metavar="TEXT", help="What running it asks of people.")
@click.option(
    "--considered", multiple=True, metavar="TEXT", help="An option not measured, and why; may be repeated."
)
@_limit("--ttft-p95-ms", "Limit on the p95 of time to first token.")
@_limit("--itl-p95-ms", "Limit on the p95 of inter-token latency.")
@_limit("--request-latency-p95-ms", "Limit on the p95 of request latency.")
@_limit("--min-tokens-per-second", "Output tokens a second that are needed.")
@_limit("--max-error-percent", "Limit on failed requests.")
@_limit("--max-gpu-memory-gib", "Limit on the memory of each GPU.")
@PRIMARY
@click.option("--production-input", "input_tokens", type=SIZE, help="Tokens of the longest prompts expected.")
@click.option("--production-output", "output_tokens", type=SIZE, help="Tokens of the longest answers.")
@click.option("--production-concurrency", "concurrency", type=SIZE, help="Requests at once expected.")
@click.option(
    "--hourly-cost",
    "prices",
    multiple=True,
    metavar="[RUN=]AMOUNT",
    help="Price of an hour of all that the run uses; may be repeated.",
)
@out_option("Write decision.json, .md and .html into this folder.  [default: out/decision]")
@FORCE
@JSON
@DEBUG
def command(
    names: tuple[str, ...],
    prices: tuple[str, ...],
    out: Path | None,
    force: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Write a decision record from measured runs.

    RUN is a folder with a run.json, or an id under out/NAME/runs/; the first is the baseline. The page has
    the question, the options, plots, answers side by side, a checklist of what was done and what was not,
    the risks, the fallback, and how to repeat it. It refuses to recommend what was never measured, and says
    so where the numbers speak against the recommendation.
    """
    from scripts.flows.decide import decide, write_decision
    from tpforge.outputs.places import OUT

    output = Output(as_json=as_json)
    decided = decide(names, _request(values), prices=prices)
    folder = out or OUT / "decision"
    write_decision(folder, decided, force=force)
    decision = decided.decision
    output.result(f"recommended: {decided.recommended.run.label}; fallback: {decided.fallback.run.label}")
    for line in decision.findings:
        output.result(line)
    for line in decision.against:
        output.result(f"the numbers speak against it: {line}")
    for line in decision.risks:
        output.result(f"risk: {line}")
    missing = [item for item in decision.checklist if item.status == "missing"]
    output.result(
        f"checklist: {len(decision.checklist) - len(missing)} done or not needed, {len(missing)} missing"
    )
    for item in missing:
        output.result(f"  {item.question} {item.evidence}")
    output.result(f"wrote {folder / 'decision.html'}, .md and .json")
    fields = json.loads(decision.model_dump_json())
    fields.pop("schema_version")
    output.record("decision", {"path": str(folder), **fields})


def _request(values: dict[str, Any]) -> Request:
    """The record for the values of the options."""
    limits = {name: values.pop(name) for name in Limits.model_fields}
    production = {name: values.pop(name) for name in Production.model_fields}
    return Request(limits=Limits(**limits), production=Production(**production), **values)
