"""`tpforge accept`: every claim about this host, tried."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scripts.cli.options.common import DEBUG, DRY_RUN, JSON, Amount, out_option
from scripts.cli.output import Output
from scripts.reports.columns import table
from tpforge.errors import EnvironmentUnusable, UsageError, VerificationFailed

if TYPE_CHECKING:
    from scripts.flows.accepting.claims import Asked


@click.command("accept")
@click.argument("model", metavar="[MODEL]", default="demo")
@click.option(
    "--sizes",
    metavar="N,N,...",
    help="Tensor-parallel sizes.  [default: 1, 2, 4, ... as the GPUs allow; 1,2 for the reference runtime]",
)
@click.option(
    "--budget",
    type=Amount(min=0, min_open=True),
    default=60,
    show_default=True,
    metavar="MINUTES",
    help="What is not tried by then is left for the next run.",
)
@out_option("Where page, record and logs go.  [default: out/accept]")
@DRY_RUN
@JSON
@DEBUG
def command(
    model: str, sizes: str | None, budget: float, out: Path | None, dry_run: bool, as_json: bool
) -> None:
    """Try every claim about this host, and write what was claimed and what was seen.

    Learns the installed TensorRT-LLM, builds MODEL (the demo model) at each size for the runtime that auto
    names, proves it, quantizes on the GPU, serves the largest, runs the smoke test and a short load test
    beside the plan, stops. Interrupted or out of time, the same command continues with what has not held yet.
    The page and the record hold no folder, home, user or host name. Exit status 6 when a claim failed, 3 when
    the time was over before all was tried.
    """
    from scripts.flows.accept import PAGE, accept, preview

    output = Output(as_json=as_json)
    chosen = _sizes(sizes)
    folder = out or Path("out/accept")
    if dry_run:
        _print_preview(output, preview(model, sizes=chosen, out=folder))
        return
    found = accept(model, folder, sizes=chosen, budget_min=budget, progress=output.progress)
    rows = [(tried.verdict, tried.name, tried.seen) for tried in found.claims]
    output.result(table(rows, header=("", "claim", "seen")))
    output.note(f"{folder / PAGE} has all of it")
    fields = found.model_dump(mode="json", exclude={"schema_version"})
    output.record("acceptance", {"folder": str(folder), **fields})
    if found.failed:
        names = [f"{tried.name}: {tried.seen}" for tried in found.failed]
        raise VerificationFailed("\n  ".join(["claims that did not hold:", *names]))
    if not found.is_over:
        raise EnvironmentUnusable(
            f"the {budget:g} min were over before everything was tried; run the same command for the rest"
        )


def _sizes(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        found = [int(size) for size in text.split(",")]
    except ValueError:
        raise UsageError(f"--sizes {text}: expected numbers, such as 1,2,4,8") from None
    if not found or min(found) < 1:
        raise UsageError(f"--sizes {text}: expected sizes from 1 on")
    return found


def _print_preview(output: Output, asked: Asked) -> None:
    from scripts.flows.accepting.claims import claims

    found = claims(asked)
    for claim in found:
        state = f"not here: {claim.lacks}" if claim.lacks else f"$ tpforge {shlex.join(claim.words)}"
        output.result(f"{claim.name}: {claim.claimed}\n    {state}")
    output.record(
        "acceptance_preview",
        {
            "sizes": list(asked.sizes),
            "claims": [
                {"name": one.name, "claimed": one.claimed, "command": list(one.words), "lacks": one.lacks}
                for one in found
            ],
        },
    )
