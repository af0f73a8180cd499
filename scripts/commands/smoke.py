"""`tpforge smoke`: the checks of a running server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from scripts.cli.options.common import DEBUG, JSON
from scripts.cli.options.connection import connection_options, read_connection
from scripts.cli.output import Output


@click.command("smoke")
@click.argument("url", metavar="[HOST:PORT]", required=False)
@click.option("--engine", help="The engine it serves: limits and golden answers.  [default: as started here]")
@click.option("--junit", type=click.Path(path_type=Path), metavar="FILE", help="Write a JUnit report too.")
@connection_options()
@JSON
@DEBUG
def command(url: str | None, engine: str | None, junit: Path | None, as_json: bool, **values: Any) -> None:
    """Prove over gRPC that a server keeps its contract.

    HOST:PORT is the server's gRPC port; without it the server that runs here. Checks what it answers, how it
    streams, and that it survives malformed requests. Exit status 6 when a check fails.
    """
    import json

    from scripts.flows.smoke import smoke_server
    from triton_repo.smoke import SmokeOptions, report

    output = Output(as_json=as_json)
    connection = read_connection(**values)
    chosen = SmokeOptions(deadline_s=connection.deadline_s, headers=connection.headers, tls=connection.tls)
    found = smoke_server(
        url,
        engine=engine,
        junit=junit,
        options=chosen,
        on_result=lambda check: output.result(report.line_of(check)),
    )
    output.result(report.summary(found))
    output.record("smoke", json.loads(found.to_json()))
    report.refuse_failed(found)
