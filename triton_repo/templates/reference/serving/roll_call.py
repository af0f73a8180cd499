"""Asks the streams of an ensemble that wait for their first token whether anybody still listens to them.

It stops nothing. Triton tells of a client that has gone only the step that begins afterwards; a response
without a token begins postprocessing, which sees it and has the stream stopped (see abandoned.py). A client
that is there gets a text without a character, so nobody is asked before some were found to be abandoned.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from .answers import Sequence

CALL_PERIOD_MS = 1000
_NUM_FOUND = 2
_FOUND_WITHIN_S = 10.0
_WAITED_S = 1.0


class RollCall:
    """The streams that wait; `call` asks them when several have just been found to be abandoned.

    `ask` sends one of them a response without a token. Every method may be called from any thread.
    """

    def __init__(self, *, ask: Callable[[Sequence], None], now: Callable[[], float] = time.monotonic) -> None:
        self._ask, self._now = ask, now
        self._since: dict[Sequence, float] = {}
        self._found: deque[float] = deque(maxlen=_NUM_FOUND)
        self._lock = threading.Lock()

    def add(self, sequence: Sequence) -> None:
        """Remember a sequence that has been submitted, if it is of an ensemble's stream."""
        if sequence.exchange.mark and sequence.item.streaming:
            with self._lock:
                self._since[sequence] = self._now()

    def found(self) -> None:
        """A stream was abandoned: others may be too, as when their client died with all that it had asked."""
        with self._lock:
            self._found.append(self._now())

    def call(self) -> None:
        """Ask those that have waited for a while; called every `CALL_PERIOD_MS`."""
        with self._lock:
            now = self._now()
            self._since = {one: since for one, since in self._since.items() if one.is_waiting}
            is_due = len(self._found) == _NUM_FOUND and now - self._found[0] <= _FOUND_WITHIN_S
            asked = [one for one, since in self._since.items() if is_due and now - since >= _WAITED_S]
            if asked:
                self._found.clear()
        for sequence in asked:
            self._ask(sequence)
