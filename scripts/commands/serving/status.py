"""`tpforge status`: which servers run."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from scripts.cli.options.common import DEBUG, ENGINE, JSON, SIZE, Amount
from scripts.cli.output import Output
from scripts.reports.columns import table
from tpforge.errors import UsageError

if TYPE_CHECKING:
    from scripts.flows.status import Looked


@click.command("status")
@ENGINE
@click.option("--watch", is_flag=True, help="Show queue, rates, KV cache and memory, again and again.")
@click.option(
    "--every",
    type=Amount(min=0.2),
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
    from scripts.flows.status import look, routed

    output = Output(as_json=as_json)
    if watch:
        if as_json:
            raise UsageError("--watch and --json exclude each other")
        _watch(output, engine, every_s=every, times=times)
        return
    found = look(engine)
    if not found:
        output.note("no server runs under out/")
    else:
        header = ("engine", "phase", "answers", "address", "pid", "restarts")
        output.result(table([_row(one) for one in found], header=header))
    for one in found:
        if one.status.phase in ("failed", "crashed", "restarting"):
            output.note(f"{one.status.state_dir}: {one.status.message}")
    router = routed() if engine is None else None
    if router is not None:
        output.result(f"router {router.url}: new requests go to {router.engine} ({router.target})")
    fields = {"servers": [_fields(one) for one in found], "router": asdict(router) if router else None}
    output.record("status", fields)


def _row(one: Looked) -> tuple[str, ...]:
    status = one.status
    address = status.server.url if status.server else ""
    pid = str(status.server.pid) if status.server and status.is_running else ""
    return one.engine, status.phase, "yes" if one.answers else "no", address, pid, str(status.restarts)


def _fields(one: Looked) -> dict[str, object]:
    from scripts.cli.show_server import server_fields

    status = one.status
    return {
        "engine": one.engine,
        "phase": status.phase,
        "message": status.message,
        "answers": one.answers,
        "restarts": status.restarts,
        "last_failure": status.last_failure,
        "server": server_fields(status.server) if status.server else None,
    }


def _watch(output: Output, engine: str | None, *, every_s: float, times: int | None) -> None:
    """Print what every server does, over the last picture on a terminal."""
    import sys
    import time

    from scripts.flows.status import picture

    before, count = None, 0
    while times is None or count < times:
        before = picture(engine, before)
        if sys.stdout.isatty():
            click.clear()
        output.result("\n".join(before.lines))
        count += 1
        if count != times:
            time.sleep(every_s)
