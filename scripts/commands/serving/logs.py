"""`tpforge logs`: what a server says."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

from scripts.cli.options.common import COUNT, DEBUG, ENGINE, JSON
from scripts.cli.output import Output
from tpforge.errors import UsageError

_POLL_S = 0.2
_MOST_BYTES = 16 << 20


@click.command("logs")
@ENGINE
@click.option("--follow", "-f", is_flag=True, help="Go on with what is written, until Ctrl-C.")
@click.option("--lines", type=COUNT, default=40, show_default=True, help="How many of the last lines.")
@click.option("--supervisor", is_flag=True, help="The supervisor's log: starts, deaths, restarts.")
@JSON
@DEBUG
def command(engine: str | None, follow: bool, lines: int, supervisor: bool, as_json: bool) -> None:
    """Show the log of a server, running or not.

    ENGINE says whose; without it that of the server that runs, or of the last one that did.
    """
    from scripts.flows.serve import find_log
    from triton_repo.serve.local import SUPERVISOR_LOG
    from triton_repo.serve.state import LOG_FILE

    if follow and as_json:
        raise UsageError("--follow and --json exclude each other")
    output = Output(as_json=as_json)
    path = find_log(engine, SUPERVISOR_LOG if supervisor else LOG_FILE)
    size = path.stat().st_size
    found = _last_lines(path, lines)
    for line in found:
        output.result(line)
    output.record("log", {"path": str(path), "lines": found})
    if follow:
        _follow(path, size, output)


def _last_lines(path: Path, count: int) -> list[str]:
    """The last lines, of the last `_MOST_BYTES` alone: a log may be larger than memory."""
    if count == 0:
        return []
    with path.open("rb") as file:
        start = max(0, file.seek(0, os.SEEK_END) - _MOST_BYTES)
        file.seek(start)
        data = file.read(_MOST_BYTES)
    lines = data.decode("utf-8", errors="replace").splitlines()
    return lines[1 if start and len(lines) > 1 else 0 :][-count:]


def _follow(path: Path, start: int, output: Output) -> None:
    """Print what is appended; a log that begins anew, by a restart of the server, is read from its start."""
    while True:
        size = path.stat().st_size if path.is_file() else start
        if size < start:
            start = 0
        if size > start:
            with path.open("rb") as file:
                file.seek(start)
                data = file.read(size - start)
            whole = data[: data.rfind(b"\n") + 1]
            start += len(whole)
            if whole:
                output.result(whole.decode("utf-8", errors="replace").rstrip("\n"))
        time.sleep(_POLL_S)
