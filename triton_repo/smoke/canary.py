"""A question whose answer is known, asked after each of several wrong requests that are sent at once.

It sends none of those. An answer counts for every check that waited when it was asked for: checks at once
need few of them, and each has one from after its own wrong request.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock


class Canary:
    """Asks by `ask`, once at a time."""

    def __init__(self, ask: Callable[[], str]) -> None:
        self._ask = ask
        self._lock = Lock()
        self._worker = ThreadPoolExecutor(1)
        self._next: Future[str] | None = None
        """One that is not asked yet."""

    def answer(self) -> str:
        """An answer to what was asked after this was called; raises what asking raised."""
        with self._lock:
            if self._next is None:
                self._next = self._worker.submit(self._run)
            waited = self._next
        return waited.result()

    def _run(self) -> str:
        with self._lock:
            self._next = None
        return self._ask()
