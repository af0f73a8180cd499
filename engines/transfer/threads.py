"""Work on many files at a time, within a time limit, that one Ctrl-C or a passed limit really ends.

It knows no file. Threads of the standard library's pools are waited for at the end of a program, however long
a server keeps them; these are not.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TypeVar

from tpforge.errors import EnvironmentUnusable, VerificationFailed
from tpforge.units import format_bytes, format_seconds

TOTAL_S = 86_400.0
STALL_S = 60.0
STALL_BYTES = 64 << 10
"""Fewer bytes than this in STALL_S are as good as none."""
_END_S = 5.0

Item = TypeVar("Item")


class Stopped(Exception):
    """The work was called off."""


@dataclass
class TimeLimit:
    """How long all of it may take; the clock starts when it is made."""

    total_s: float = TOTAL_S
    clock: Callable[[], float] = time.monotonic
    begun: float = field(init=False)

    def __post_init__(self) -> None:
        self.begun = self.clock()

    @property
    def left_s(self) -> float:
        """Seconds that are left; none is 0."""
        return max(0.0, self.begun + self.total_s - self.clock())

    def passed(self, where: str) -> EnvironmentUnusable:
        """The error of a limit that has passed."""
        return EnvironmentUnusable(
            f"{where}: not done within {format_seconds(self.total_s)}; run again, the pull goes on where it "
            "was; --time-limit SECONDS allows more"
        )


class Pace:
    """Notices a file whose bytes drip: STALL_BYTES in each STALL_S are the least."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._name, self._clock, self._begun, self._num_bytes = name, clock, clock(), 0

    def add(self, num_bytes: int) -> None:
        """Count what came.

        Raises:
            EnvironmentUnusable: too little did.
        """
        self._num_bytes += num_bytes
        seconds = self._clock() - self._begun
        if seconds < STALL_S:
            return
        if self._num_bytes < STALL_BYTES:
            raise EnvironmentUnusable(
                f"{self._name}: {format_bytes(self._num_bytes)} came in {format_seconds(seconds)}, expected "
                f"{format_bytes(STALL_BYTES)} or more: the server stalls"
            )
        self._begun, self._num_bytes = self._clock(), 0


def in_threads(
    action: Callable[[Item, Callable[[], None]], None],
    items: Iterable[Item],
    *,
    num_parallel: int,
    limit: TimeLimit,
    where: str,
) -> list[str]:
    """Do all, in their order; the verifications that failed, sorted. Another error calls off the rest.

    The action is given a function to call often: it raises `Stopped` once the work is called off.

    Raises:
        EnvironmentUnusable: the limit has passed.
        TpforgeError: what the action raised.
    """
    pending: SimpleQueue[Item] = SimpleQueue()
    done: SimpleQueue[BaseException | None] = SimpleQueue()
    stopped = threading.Event()
    for item in items:
        pending.put(item)
    count = pending.qsize()
    work = (action, pending, done, stopped)
    threads = [
        threading.Thread(target=_work, args=work, daemon=True) for _ in range(min(num_parallel, count))
    ]
    for thread in threads:
        thread.start()
    problems = []
    try:
        for _ in range(count):
            try:
                error = done.get(timeout=limit.left_s)
            except Empty:
                raise limit.passed(where) from None
            if isinstance(error, VerificationFailed):
                problems.append(str(error))
            elif error is not None:
                raise error
    except Exception:
        stopped.set()
        end = time.monotonic() + min(_END_S, limit.left_s)
        for thread in threads:  # Those that notice end in order; one that waits for a server is left behind.
            thread.join(max(0.0, end - time.monotonic()))
        raise
    finally:
        stopped.set()
    return sorted(problems)


def _work(
    action: Callable[[Item, Callable[[], None]], None],
    pending: SimpleQueue[Item],
    done: SimpleQueue[BaseException | None],
    stopped: threading.Event,
) -> None:
    def check() -> None:
        if stopped.is_set():
            raise Stopped

    while not stopped.is_set():
        try:
            item = pending.get_nowait()
        except Empty:
            return
        try:
            action(item, check)
        except Stopped:
            return
        except VerificationFailed as error:
            done.put(error)
        except BaseException as error:
            stopped.set()
            done.put(error)
        else:
            done.put(None)
