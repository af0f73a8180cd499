"""A process that outlives its supervisor by a moment, to end what a killed one leaves.

The kernel takes tritonserver along; its model processes often stay, waiting on shared memory for ever.
``python -m`` this file waits for its standard input to end, which it does when the supervisor ends,
however that ends. It does not watch the server.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from triton_repo.serve.processes import kill_marked, remove_shared_memory

_END_TIMEOUT_S = 10.0


@contextmanager
def guarded(mark: str) -> Iterator[None]:
    """Make sure that nothing with this mark outlives the calling process."""
    guard = subprocess.Popen(
        module_command("triton_repo.serve.guard", mark),
        env=module_environment(),
        stdin=subprocess.PIPE,  # Not inherited by the server: only this process holds the other end.
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )
    assert guard.stdin is not None
    try:
        yield
    finally:
        guard.stdin.close()
        try:
            guard.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            guard.kill()
            guard.wait()


def module_command(module: str, *arguments: str) -> list[str]:
    """The command line of a module of this package; -P: a `triton_repo` in the current folder is not ours."""
    return [sys.executable, "-P", "-m", module, *arguments]


def module_environment() -> dict[str, str]:
    """The environment in which `module_command` finds this package, installed or not."""
    package_root = str(Path(__file__).resolve().parents[2])
    search_path = os.pathsep.join([package_root, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": search_path}


def main(arguments: list[str]) -> int:
    """Wait for the supervisor's end, then leave nothing of its server."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    kill_marked(arguments[0])
    remove_shared_memory(f"{arguments[0]}_")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
