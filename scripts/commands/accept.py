"""`tpforge accept`: every claim about this host, tried."""

from __future__ import annotations

from pathlib import Path

import click

from scripts.cli.options.common import DEBUG, JSON, out_option
from scripts.cli.output import Output
from tpforge.errors import UsageError, VerificationFailed


@click.command("accept")
@click.argument("model", metavar="[MODEL]", default="demo")
@click.option("--sizes", default="1,2", show_default=True, metavar="N,N,...", help="Tensor-parallel sizes.")
@out_option("Where page, record and logs go.  [default: out/accept]")
@JSON
@DEBUG
def command(model: str, sizes: str, out: Path | None, as_json: bool) -> None:
    """Try every claim about this host, and write what was claimed and what was seen.

    Builds MODEL (the demo model) at each size for the runtime that auto names, proves it, serves the largest,
    runs the smoke test and a short load test, stops. Interrupted, it goes on with what has not held yet. The
    page and the record hold no folder, home or host name. Exit status 6 when a claim failed.
    """
    from scripts.flows.accept import PAGE, accept

    output = Output(as_json=as_json)
    try:
        chosen = [int(size) for size in sizes.split(",")]
    except ValueError:
        raise UsageError(f"--sizes {sizes}: expected numbers, such as 1,2,4,8") from None
    if not chosen or min(chosen) < 1:
        raise UsageError(f"--sizes {sizes}: expected sizes from 1 on")
    folder = out or Path("out/accept")
    found = accept(model, folder, sizes=chosen, progress=output.progress)
    for tried in found.claims:
        output.result(f"{tried.verdict:8}{tried.name:16}{tried.seen}")
    output.note(f"{folder / PAGE} has all of it")
    output.record("acceptance", {"folder": str(folder), "claims": [one.model_dump() for one in found.claims]})
    if found.failed:
        names = [f"{tried.name}: {tried.seen}" for tried in found.failed]
        raise VerificationFailed("\n  ".join(["claims that did not hold:", *names]))
