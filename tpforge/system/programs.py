"""Programs run beside this one: their lines read while they run, and nothing of them left afterwards.

What they mean is the caller's; servers, which outlive us, are `triton_repo.serve`'s.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tpforge.errors import EnvironmentUnusable

GRACE_S = 10.0


@contextmanager
def running(
    words: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stderr: IO[str] | None = None,
    grace_s: float = GRACE_S,
) -> Iterator[subprocess.Popen[str]]:
    """A program whose `stdout` is to be read; it is ended when the block ends, however that is.

    Its standard error joins standard output, or goes to the file `stderr`. It has no input.

    Raises:
        EnvironmentUnusable: it cannot be started.
    """
    try:
        child = subprocess.Popen(
            list(words),
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if stderr is None else stderr,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise EnvironmentUnusable(f"{words[0]}: cannot be started: {error.strerror}") from error
    try:
        yield child
    finally:
        end_program(child, grace_s=grace_s)
        if child.stdout is not None:
            child.stdout.close()


def run_lines(
    words: Sequence[str],
    *,
    on_line: Callable[[str], None],
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stderr: IO[str] | None = None,
) -> int:
    """Run a program to its end; `on_line` sees every line with its line break. Its exit status.

    Raises:
        EnvironmentUnusable: it cannot be started.
    """
    with running(words, cwd=cwd, env=env, stderr=stderr) as child:
        assert child.stdout is not None
        for line in child.stdout:
            on_line(line)
        return child.wait()


def end_program(child: subprocess.Popen[str] | subprocess.Popen[bytes], *, grace_s: float = GRACE_S) -> None:
    """Ask a child to end, and kill it when it has not after `grace_s`; one that has ended is left alone."""
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(grace_s)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
