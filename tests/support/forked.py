"""Functions run in a process of their own that has torch and our converters loaded already.

They are forked by a server process that has all of it: loading takes longer than most of them do. What is
about the start of an interpreter is tested in one that is started.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload(["tests.support.preloaded"])


@dataclass(frozen=True)
class Done:
    """The exit status of a process, minus its signal where one ended it, and what it said."""

    returncode: int
    stdout: str
    stderr: str


def run_forked(function: Callable[..., int], *arguments: Any, cwd: Path) -> Done:
    """What `function`, which a module has by its name, returns as the exit status of its process."""
    with TemporaryDirectory() as folder:
        said = tuple(Path(folder, name) for name in ("stdout", "stderr"))
        child = FORKING.Process(target=_be_child, args=(function, arguments, cwd, said))
        child.start()
        child.join()
        assert child.exitcode is not None
        return Done(child.exitcode, *(path.read_text() for path in said))


def _be_child(
    function: Callable[..., int], arguments: tuple[Any, ...], cwd: Path, said: tuple[Path, Path]
) -> None:
    os.chdir(cwd)
    for number, path in enumerate(said, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    status = function(*arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
