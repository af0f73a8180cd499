"""The requests in flight in tensorrt_llm: found again to be stopped, cancelled and counted.

It neither decodes nor answers: cancelling tells the scheduler, and the last event brings the answer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from .answers import Exchange

SEPARATOR = "\x1f"
"""Between the client's request id and what tensorrt_llm_bls adds to make its own requests unique."""


class InFlight:
    """Requests that have not ended; every method may be called from any thread."""

    def __init__(self, *, cancel: Callable[[Any], None]) -> None:
        self._cancel_handle = cancel
        self._exchanges: set[Exchange] = set()
        self._lock = threading.Lock()

    def add(self, exchange: Exchange) -> None:
        """Remember a request."""
        with self._lock:
            self._exchanges.add(exchange)

    def attach(self, exchange: Exchange, handle: Any) -> None:
        """Join the scheduler's handle of a sequence to its request."""
        with self._lock:
            exchange.handles.append(handle)
            cancelled = exchange.cancelled
        if cancelled:
            self._cancel_handle(handle)

    def stop(self, request_id: str) -> None:
        """Cancel the requests with that id, and those that tensorrt_llm_bls made for it."""
        own = request_id + SEPARATOR
        for exchange in self._snapshot():
            if exchange.request_id == request_id or exchange.request_id.startswith(own):
                self._cancel(exchange)

    def cancel_abandoned(self) -> None:
        """Cancel the requests whose clients are gone, and once more those that have not ended yet."""
        for exchange in self._snapshot():
            if exchange.cancelled or exchange.sender.is_cancelled():
                self._cancel(exchange)

    def _snapshot(self) -> list[Exchange]:
        with self._lock:
            self._exchanges = {exchange for exchange in self._exchanges if not exchange.done}
            return list(self._exchanges)

    def _cancel(self, exchange: Exchange) -> None:
        with self._lock:
            exchange.cancelled = True
            handles = list(exchange.handles)
        for handle in handles:
            self._cancel_handle(handle)


class Periodic:
    """Calls functions on a thread of its own, each every so many milliseconds, until closed."""

    def __init__(self, jobs: Mapping[Callable[[], None], int], *, log_error: Callable[[str], None]) -> None:
        self._log_error = log_error
        self._closed = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(job, period_ms / 1000), name="periodic", daemon=True)
            for job, period_ms in jobs.items()
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End after the calls under way."""
        self._closed.set()
        for thread in self._threads:
            thread.join()

    def _run(self, job: Callable[[], None], period_s: float) -> None:
        while not self._closed.wait(period_s):
            try:
                job()
            except Exception as error:
                # A failed look at one moment must not end cancellation or metrics for good.
                self._log_error(f"{getattr(job, '__qualname__', job)}: {error}")
