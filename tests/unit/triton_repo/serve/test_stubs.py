"""A tritonserver's model processes as the kernel shows them, also those that ended before anybody looked."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.support.patience import wait_until
from triton_repo.serve.processes import ModelProcesses, stubs_of

PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.argv[1], "600"])
print(child.pid, flush=True)
sys.stdin.read()
child.kill()
child.wait()
"""


@contextmanager
def parent_of(program: Path) -> Iterator[tuple[int, int]]:
    """A process that, as Triton, does not look after its child; both pids."""
    shutil.copy("/bin/sleep", program)
    words = [sys.executable, "-c", PARENT, str(program)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        yield parent.pid, int(parent.stdout.readline())


def is_zombie(pid: int) -> bool:
    return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def test_model_process_that_ended_unseen_is_found(tmp_path: Path) -> None:
    with parent_of(tmp_path / "triton_python_backend_stub") as (parent, stub):
        wait_until(lambda: bool(stubs_of(parent)), "the child runs its program")
        assert [found.pid for found in stubs_of(parent)] == [stub]
        watched = ModelProcesses(parent)
        assert watched.ended() is None
        os.kill(stub, signal.SIGKILL)
        wait_until(lambda: is_zombie(stub), "a zombie")
        assert f"(pid {stub}) ended" in (watched.ended() or "")
        unseen = ModelProcesses(parent).ended()
        assert unseen == f"the process of a model (pid {stub}) ended while the server started"
        assert stubs_of(parent) == {}


def test_another_program_that_ended_is_no_model(tmp_path: Path) -> None:
    with parent_of(tmp_path / "gc-helper") as (parent, child):
        os.kill(child, signal.SIGKILL)
        wait_until(lambda: is_zombie(child), "a zombie")
        assert ModelProcesses(parent).ended() is None


def test_server_that_is_gone_has_none() -> None:
    with subprocess.Popen(["/bin/true"]) as ended:
        pass
    assert ModelProcesses(ended.pid).ended() is None
