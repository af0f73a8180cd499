"""`tpforge status`: which servers run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from scripts import _options
from scripts._output import Output, table

if TYPE_CHECKING:
    from triton_repo.deploy.local import Status


@click.command("status")
@_options.ENGINE
@_options.JSON
@_options.DEBUG
def command(engine: str | None, as_json: bool) -> None:
    """Show the servers that run, and whether they answer.

    ENGINE says whose; without it all under out/.
    """
    from scripts import serving
    from scripts.cmd_serve import server_fields

    output = Output(as_json=as_json)
    found = serving.servers(engine)
    if not found:
        output.note("no server runs under out/")
    rows = []
    records: list[dict[str, object]] = []
    for status in found:
        answers = _answers(status)
        grpc = status.server.grpc_url if status.server else ""
        pid = str(status.server.pid) if status.server and status.is_running else ""
        name = str(serving.places_of_server(status).engine)
        rows.append((name, status.phase, "yes" if answers else "no", grpc, pid, str(status.restarts)))
        records.append(
            {
                "engine": name,
                "phase": status.phase,
                "message": status.message,
                "answers": answers,
                "restarts": status.restarts,
                "last_failure": status.last_failure,
                "server": server_fields(status.server) if status.server else None,
            }
        )
    if rows:
        output.result(table(rows, header=("engine", "phase", "answers", "gRPC", "pid", "restarts")))
    for status in found:
        if status.phase in ("failed", "crashed", "restarting"):
            output.note(f"{status.state_dir}: {status.message}")
    output.record("status", {"servers": records})


def _answers(status: Status) -> bool:
    """Whether the server says over gRPC that it is ready."""
    from tpforge.errors import TpforgeError
    from triton_repo.client import Client

    if status.phase != "ready" or status.server is None:
        return False
    try:
        security = status.server.security
        with Client(
            status.server.grpc_url,
            deadline_s=2,
            headers=security.client_headers(),
            tls=security.client_tls(),
        ) as client:
            return client.is_ready()
    except TpforgeError:
        return False
