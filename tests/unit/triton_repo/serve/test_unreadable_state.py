"""A server that runs while its state cannot be read: of another version of tpforge, or damaged."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.patience import PATIENCE_S
from triton_repo.serve import private, processes, state
from triton_repo.serve.local import status, stop

HOLDS = """
import fcntl, os, signal, sys
descriptor = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR, 0o600)
fcntl.flock(descriptor, fcntl.LOCK_EX)
print("held", flush=True)
signal.pause()
"""


@contextmanager
def holding(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a folder's lock, as a supervisor does."""
    lock = private.make_private(folder) / ".lock"
    words = [sys.executable, "-c", HOLDS, str(lock)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    "text", ["", "{}", '{"folder": "/x", "state": {"schema_version": 2, "phase": "napping"}}']
)
def test_a_server_whose_state_says_nothing_is_shown_and_ended(text: str, tmp_path: Path) -> None:
    with holding(tmp_path) as supervisor:
        private.write_private(state.state_file(tmp_path), text)
        found = status(tmp_path)
        assert (found.phase, found.is_running) == ("unreadable", True)
        assert f"process {supervisor.pid} runs a server here" in found.message
        assert stop(tmp_path).phase == "unreadable"
        assert supervisor.wait(PATIENCE_S) < 0
    assert status(tmp_path).phase == "stopped"
    assert stop(tmp_path).phase == "stopped"


def test_a_lock_that_is_held_for_a_moment_is_no_server(tmp_path: Path) -> None:
    """As by a start that has not written its state yet."""
    with holding(tmp_path) as starting:
        assert status(tmp_path).phase == "stopped"
        assert stop(tmp_path).phase == "stopped"
        assert processes.identify(starting.pid) is not None
