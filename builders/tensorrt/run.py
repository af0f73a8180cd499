"""Runs a build: streams its log into a file and to the caller, and says why it failed.

What is run is `command`'s; whether the result is right is `outcome`'s.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable
from pathlib import Path

from builders.tensorrt.command import PROGRAM, BuildCommand, Where
from builders.tensorrt.log import BuildLog, LogReader
from tpforge.errors import EnvironmentUnusable, InputRefused
from tpforge.system.programs import run_lines
from tpforge.trtllm.causes import explain

_TAIL = 400
"""Lines that are searched for the cause of a failure."""
_PROGRAMS = {"host": PROGRAM, "docker": "docker", "podman": "podman", "slurm": "srun"}


def require_program(where: Where) -> None:
    """Refuse a build that cannot start here, before the checkpoint is converted.

    Raises:
        EnvironmentUnusable: the program is not on PATH; says what else can be done.
    """
    program = _PROGRAMS[where]
    if shutil.which(program) is not None:
        return
    others = "--container docker|podman|slurm where one of them is installed, or " if where == "host" else ""
    raise EnvironmentUnusable(
        f"{program}: not found on PATH; use {others}--dry-run, which prints the command and the script for a "
        "machine that has it"
    )


def run_build(command: BuildCommand, *, log: Path, on_line: Callable[[str], None]) -> BuildLog:
    """Run the build to its end; `on_line` sees every line, `log` keeps them.

    Raises:
        EnvironmentUnusable: it cannot be started.
        InputRefused: it failed; with the causes that the log shows, else its last lines.
    """
    reader, tail = LogReader(), deque[str](maxlen=_TAIL)
    with log.open("w", encoding="utf-8") as file:

        def take(line: str) -> None:
            file.write(line)
            reader.feed(line)
            tail.append(line)
            on_line(line.rstrip("\n"))

        status = run_lines(command.words, on_line=take, cwd=command.folder)
    if status:
        raise InputRefused(_failure(status, list(tail)))
    return reader.summary()


def _failure(status: int, tail: list[str]) -> str:
    known = explain([*tail, f"exited by signal {-status}" if status < 0 else ""])
    lines = known or [line.rstrip() for line in tail[-12:]] or ["it said nothing"]
    title = "the log shows:" if known else "no known cause; its last lines:"
    return "\n  ".join([f"trtllm-build ended with status {status}; {title}", *lines])
