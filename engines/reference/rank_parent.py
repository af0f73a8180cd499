"""The process that all ranks are forked from, so that torch is loaded once; it tells how each of them ended.

It is run as ``python -m PACKAGE.rank_parent`` by `ranks`, for nobody else. What a rank does is in `worker`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from .process import loading

with loading():
    from .worker import serve_rank

_PR_SET_PDEATHSIG = 1


def _main(arguments: list[str]) -> None:
    engine, num_slots, device, compute_dtype, folder, told, *descriptors = arguments
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the owner's to handle.
    owner: Connection[Any, Any] = Connection(int(told))
    connections, me = [int(descriptor) for descriptor in descriptors], os.getpid()
    pids: dict[int, int] = {}
    for rank, connection in enumerate(connections):
        pid = os.fork()
        if pid == 0:
            owner.close()
            _die_with_parent()
            if os.getppid() != me:
                return  # It had ended before the kernel was asked.
            _be_alone(rank, Path(folder), others=[other for other in connections if other != connection])
            serve_rank(
                Path(engine),
                rank=rank,
                num_slots=int(num_slots),
                device_type=device,
                compute_dtype=compute_dtype,
                store=Path(folder, "store"),
                parent=Connection(connection),
            )
            return
        pids[pid] = rank
    for connection in connections:
        os.close(connection)
    _tell_ends(owner, pids)


def _be_alone(rank: int, folder: Path, *, others: Sequence[int]) -> None:
    """Write to a log of one's own, and hold no end of another rank's connection."""
    with (folder / f"rank{rank}.log").open("wb") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    for other in others:
        os.close(other)


def _tell_ends(owner: Connection[Any, Any], pids: dict[int, int]) -> None:
    """Tell the pids, in the order of the ranks, and then each rank that ended with its exit code."""
    owner.send(tuple(pids))
    owner.recv()  # It watches them now: a pid that is not waited for cannot be another process's.
    while pids:
        pid, status = os.wait()
        owner.send((pids.pop(pid), os.waitstatus_to_exitcode(status)))


def _die_with_parent() -> None:
    """Let the kernel end this process with the thread that started it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    _main(sys.argv[1:])
