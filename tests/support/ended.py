"""Servers of tests ended at once, as by a second Ctrl-C; what an orderly end does is the tests' of `stop`.

An orderly end takes Triton two seconds, in which nothing happens but that it looks again.
"""

from __future__ import annotations

import signal
from pathlib import Path

from triton_repo.serve import processes
from triton_repo.serve.local import stop
from triton_repo.serve.state import is_supervised, read_state


def end_server(state_dir: Path) -> None:
    """Nothing of the server of a folder is left; harmless when there is none."""
    found = read_state(state_dir)
    if found is not None and is_supervised(state_dir, found):
        # Two different signals: of two alike that wait, a process is told one.
        for number in (signal.SIGTERM, signal.SIGINT):
            processes.send_signal(found.supervisor, number)
    stop(state_dir)
