"""`tpforge status`: which servers run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from scripts.cli.options.common import DEBUG, ENGINE, JSON, SIZE
from scripts.cli.output import Output
from scripts.reports.columns import table
from tpforge.errors import UsageError

if TYPE_CHECKING:
    from triton_repo.serve.local import Status


@click.command("status")
@ENGINE
@click.option("--watch", is_flag=True, help="Show queue, rates, KV cache and memory, again and again.")
@click.option(
    "--every",
    type=click.FloatRange(min=0.2),
    default=2.0,
    show_default=True,
    help="Seconds between two looks.",
)
@click.option("--times", type=SIZE, help="--watch: how often.  [default: until Ctrl-C]")
@JSON
@DEBUG
def command(engine: str | None, watch: bool, every: float, times: int | None, as_json: bool) -> None:
    """Show the servers that run, and whether they answer.

    ENGINE says whose; without it all under out/.
    """
    from scripts.commands.serve import server_fields
    from scripts.flows import serve

    output = Output(as_json=as_json)
    if watch:
        if as_json:
            raise UsageError("--watch and --json exclude each other")
        _watch(output, engine, every_s=every, times=times)
        return
    found = serve.servers(engine)
    if not found:
        output.note("no server runs under out/")
    rows = []
    records: list[dict[str, object]] = []
    for status in found:
        answers = _answers(status)
        grpc = status.server.grpc_url if status.server else ""
        pid = str(status.server.pid) if status.server and status.is_running else ""
        name = str(serve.places_of_server(status).engine)
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
    from triton_repo.client.client import Client

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


def _watch(output: Output, engine: str | None, *, every_s: float, times: int | None) -> None:
    """Print what every server does, over the last picture on a terminal."""
    import sys
    import time
    from pathlib import Path

    from scripts.flows import serve
    from triton_repo.monitoring.watch import Reading, memory_rows, rows, scrape
    from triton_repo.serve.state import read_state

    before: dict[Path, Reading] = {}
    count = 0
    while times is None or count < times:
        lines = [time.strftime("%H:%M:%S")]
        for status in serve.servers(engine):
            name = serve.places_of_server(status).engine
            lines.append(f"{name}: {status.phase}, {status.restarts} restarts")
            reading = scrape(status)
            if reading is None:
                continue
            found = rows(reading, before.get(status.state_dir))
            before[status.state_dir] = reading
            state = read_state(status.state_dir)
            if state is not None and state.server is not None:
                found += memory_rows(state.server.pid)
            lines += [f"  {what:24}  {value}" for what, value in found]
        if sys.stdout.isatty():
            click.clear()
        output.result("\n".join(lines))
        count += 1
        if count != times:
            time.sleep(every_s)
