"""`tpforge serve`: Triton on an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from scripts import _options
from scripts._output import Output
from tpforge.units import format_seconds

if TYPE_CHECKING:
    from triton_repo.deploy.local import Server


@click.command("serve")
@_options.ENGINE
@_options.server()
@click.option("--detach", is_flag=True, help="Return when it answers; `tpforge stop` ends it.")
@_options.JSON
@_options.DEBUG
def command(engine: str | None, detach: bool, as_json: bool, **values: Any) -> None:
    """Start Triton on an engine and wait until it answers.

    ENGINE is a folder, or a name under out/; without it the newest one there. Its model repository is
    rendered first when it is missing or out of date. Without --detach it runs until Ctrl-C. A server or a
    model process that dies is started again.
    """
    from scripts import serving
    from scripts.locations import find_engine
    from tpforge.recipe import ServeRecipe

    output = Output(as_json=as_json)
    places = find_engine(engine)
    if engine is None:
        output.note(f"engine: {places.engine} (the newest)")

    def say_ready(server: Server) -> None:
        output.result(f"ready after {format_seconds(server.seconds_to_ready)}")
        output.result(f"gRPC     {server.grpc_url}")
        output.result(f"HTTP     {server.http_url}")
        output.result(f"metrics  {server.metrics_url}")
        output.result(f"log      {server.log}")
        output.record("server", server_fields(server))
        output.note("stop it with: tpforge stop" if detach else "Ctrl-C stops it")

    serving.serve_engine(
        places, ServeRecipe(**values), detach=detach, progress=output.progress, on_ready=say_ready
    )


def server_fields(server: Server) -> dict[str, object]:
    """A server for --json."""
    return {
        "grpc_url": server.grpc_url,
        "http_url": server.http_url,
        "metrics_url": server.metrics_url,
        "repository": str(server.repository),
        "state_dir": str(server.state_dir),
        "log": str(server.log),
        "seconds_to_ready": server.seconds_to_ready,
        "pid": server.pid,
    }
