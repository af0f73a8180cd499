"""`tpforge stop`: end servers."""

from __future__ import annotations

import click

from scripts.cli.options.common import DEBUG, ENGINE, JSON
from scripts.cli.output import Output
from tpforge.errors import UsageError


@click.command("stop")
@ENGINE
@click.option("--all", "every", is_flag=True, help="Stop every server under out/.")
@JSON
@DEBUG
def command(engine: str | None, every: bool, as_json: bool) -> None:
    """Stop a server that `serve --detach` started.

    ENGINE says whose; without it the only one that runs. Requests in flight may finish
    within the time that `serve --drain` gave them, 30 s by default.
    """
    from scripts.flows import serve

    if engine is not None and every:
        raise UsageError("ENGINE and --all exclude each other")
    output = Output(as_json=as_json)
    stopped = serve.stop_servers(engine, every=every)
    if not stopped:
        output.note("no server runs under out/" if engine is None else f"no server of {engine} runs")
    for status in stopped:
        output.result(f"stopped {serve.places_of_server(status).engine} (was {status.phase})")
    output.record(
        "stop",
        {"stopped": [{"state_dir": str(status.state_dir), "was": status.phase} for status in stopped]},
    )
