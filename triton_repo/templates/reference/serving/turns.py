"""Who may wait, and so many calls of other models at once, the others in the order in which they came.

It calls nothing itself. Triton's Python backend carries out a model's calls, and sends its responses, on 32
threads. A call keeps one until its first response: more calls than that would keep back the responses of
streams under way, and the wishes to stop.
Source: triton-inference-server/python_backend r24.10, src/python_be.cc, ExecuteBLSRequest.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MAX_CALLS = 24
_LOOK_PERIOD_S = 0.1


class Places:
    """Those who are answered, `num_slots` at once, and at most `max_waiting` behind them; 0 is any number.

    May be used from any thread.
    """

    def __init__(self, num_slots: int, *, max_waiting: int) -> None:
        self._num_slots, self._max_waiting = num_slots, max_waiting
        self._num_inside = 0
        self._lock = threading.Lock()

    def enter(self) -> int | None:
        """Take a place, to be left again; when there is none, how many wait."""
        with self._lock:
            waiting = self._num_inside - self._num_slots
            if 0 < self._max_waiting <= waiting:
                return waiting
            self._num_inside += 1
            return None

    def leave(self) -> None:
        """Give a place back."""
        with self._lock:
            self._num_inside -= 1


class Gone(Exception):
    """Nobody waits for what was to be asked."""


class Turns:
    """`count` holders at most; may be used from any thread."""

    def __init__(self, count: int = MAX_CALLS) -> None:
        self._free = count
        self._waiting: deque[threading.Event] = deque()
        self._lock = threading.Lock()

    @contextmanager
    def take(self, is_gone: Callable[[], bool]) -> Iterator[None]:
        """Wait for a turn and hold it.

        Raises:
            Gone: `is_gone()` before it came.
        """
        self._wait(is_gone)
        try:
            yield
        finally:
            self._pass_on()

    def _wait(self, is_gone: Callable[[], bool]) -> None:
        mine = threading.Event()
        with self._lock:
            if self._free:
                self._free -= 1
                return
            self._waiting.append(mine)
        while not mine.wait(_LOOK_PERIOD_S):
            if is_gone():
                with self._lock:
                    if not mine.is_set():
                        self._waiting.remove(mine)
                        raise Gone("the request was cancelled")

    def _pass_on(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._free += 1
