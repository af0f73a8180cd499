#!/usr/bin/env python3
"""Process 1 of a container, or a task of srun: runs a server's ranks, and at SIGTERM ends them in order.

The tritonserver or trtllm-serve that answers clients is told first, and has --grace seconds for requests in
flight; then mpirun and the other ranks. Told itself, mpirun kills all of them within seconds (open-mpi/ompi,
issue 12149), and a longer odls_base_sigkill_timeout delays its SIGTERM as much as its SIGKILL (pull request
7033).
With --follow the command is no server but a rank of one, and ends when it ends by itself, or last. With no
command at all the process holds the ranks that others start beside it, as a worker of several nodes does.
It waits for no worker and asks no server anything. A second SIGTERM ends all at once. Standard library only.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

LOOK_S = 0.1
END_S = 10.0
"""What mpirun may take to end the ranks that are left."""
SERVERS = (b"tritonserver", b"trtllm-serve")
RANKS = (*SERVERS, b"trtllm-llmapi-launch")
"""What others start in a worker of several nodes; ranks of the LLM API beside the first are no server's."""

parser = argparse.ArgumentParser()
parser.add_argument("--grace", type=float, required=True)
parser.add_argument("--follow", action="store_true")
parser.add_argument("command", nargs=argparse.REMAINDER)


def say(text: str) -> None:
    """Tell the container's log; that nobody reads it any more ends nothing."""
    with contextlib.suppress(OSError):
        print(f"launch: {text}", file=sys.stderr, flush=True)


def words_of(pid: str) -> list[bytes]:
    """The command line of a process; none when it has ended."""
    try:
        return Path("/proc", pid, "cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def parent_of(pid: str) -> str:
    """The pid of a process's parent; 0 when it has ended."""
    try:
        return Path("/proc", pid, "stat").read_text(errors="replace").rpartition(")")[2].split()[1]
    except OSError:
        return "0"


def is_ours(pid: str) -> bool:
    """Whether we started a process, however far up: a machine may have servers of others."""
    while pid not in ("0", "1") and pid != str(os.getpid()):
        pid = parent_of(pid)
    return pid == str(os.getpid())


def running(programs: tuple[bytes, ...]) -> dict[int, list[bytes]]:
    """The processes of this container or machine that are called so, by pid."""
    found = {}
    for entry in Path("/proc").iterdir():
        words = words_of(entry.name) if entry.name.isdigit() else []
        # A script has its interpreter before it.
        if any(word.rpartition(b"/")[2] in programs for word in words[:2]):
            found[int(entry.name)] = words
    return found


def fronts() -> set[int]:
    """The pids of those that we started and that load more than the one model of the ranks.

    A process that such a server forked is called as it is, and is told by it.
    """
    found = {
        pid
        for pid, words in running(SERVERS).items()
        if not any(word.startswith(b"--load-model=") for word in words) and is_ours(str(pid))
    }
    return {pid for pid in found if not found & set(above(pid))}


def above(pid: int) -> list[int]:
    """The pids of a process's parent, of that one's, and so on."""
    found, parent = [], parent_of(str(pid))
    while parent not in ("0", "1"):
        found.append(int(parent))
        parent = parent_of(parent)
    return found


def listens(command: list[str]) -> bool:
    """Whether clients can have asked anything: a server that still loads listens nowhere."""
    ports = [word.partition("=")[2] for word in command if word.startswith("--http-port=")]
    ports += [port for word, port in pairwise(command) if word == "--port"]
    if not ports:
        return True
    try:
        socket.create_connection(("127.0.0.1", int(ports[0])), timeout=1).close()
    except OSError:
        return False
    return True


class Launch:
    """The command as a child, and how often we were told to end."""

    def __init__(self, command: list[str]) -> None:
        self.told = 0
        self.status: int | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.tell)
        # A session of its own: what is meant for us is not meant for the ranks.
        self.child = subprocess.Popen(command, start_new_session=True) if command else None

    def tell(self, _number: int, _frame: object) -> None:
        """We were told to end, once more."""
        self.told += 1

    def runs(self) -> bool:
        """Whether the child runs; every other child that ended is buried, as process 1 has to."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                pid, status = 0, 0
            if pid == 0:
                return self.status is None
            if self.child is not None and pid == self.child.pid:
                self.status = self.child.returncode = os.waitstatus_to_exitcode(status)

    def wait(self, seconds: float, waits: Callable[[], object]) -> bool:
        """Until `waits` is false, a second signal comes, or the time is over; whether it became false."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.told < 2:
            if not waits():
                return True
            time.sleep(LOOK_S)
        return False

    def signal_group(self, number: int) -> None:
        """Signal the child and all that it started here."""
        assert self.child is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, number)


def drain(launch: Launch, command: list[str], *, grace_s: float, follow: bool) -> bool:
    """Whether what was in flight ended by itself."""
    if not command:
        return launch.wait(grace_s, lambda: launch.runs() and running(RANKS))
    if follow:
        return launch.wait(grace_s, launch.runs)
    if not listens(command):
        return True
    told = fronts()
    for pid in told:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    return launch.wait(grace_s, lambda: launch.runs() and told & fronts())


def main() -> int:
    """The command's exit status; 0 after an orderly end, 143 when the time was over."""
    arguments = parser.parse_args()
    command, grace_s = arguments.command, arguments.grace
    launch = Launch(command)
    while launch.runs() and not launch.told:
        time.sleep(LOOK_S)
    if not launch.told:
        status = launch.status or 0
        return status if status >= 0 else 128 - status
    say(f"told to end; requests in flight have {grace_s:g} s")
    done = drain(launch, command, grace_s=grace_s, follow=arguments.follow)
    say("nothing is in flight" if done else "the time is over; what is in flight fails")
    if launch.child is not None and launch.runs():
        launch.child.terminate()
        launch.wait(END_S, launch.runs)
    if launch.child is not None:  # Whatever it has left behind, itself included.
        launch.signal_group(signal.SIGKILL)
    return 0 if done else 128 + signal.SIGTERM


if __name__ == "__main__":
    sys.exit(main())
