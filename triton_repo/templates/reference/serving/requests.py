"""The requests in flight in tensorrt_llm: found again to be stopped, cancelled and counted.

It neither decodes nor answers: cancelling tells the scheduler, and the last event brings the answer.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from .exchange import Exchange
from .relay import SEPARATOR, Mark

JOIN_TIMEOUT_S = 5
WATCH_PERIOD_MS = 1000
PROGRESS_PERIOD_MS = 500
SEND_TIMEOUT_S = 30


class InFlight:
    """Requests that have not ended; every method may be called from any thread.

    `cancel` ends what a handle stands for, is called until the request has ended, and may be called twice.
    """

    def __init__(self, *, cancel: Callable[[Any], None]) -> None:
        self._cancel_handle = cancel
        self._handles: dict[Exchange, list[Any]] = {}
        self._cancelled: set[Exchange] = set()
        self._lock = threading.Lock()

    def add(self, exchange: Exchange) -> None:
        """Remember a request."""
        with self._lock:
            self._handles[exchange] = []

    def attach(self, exchange: Exchange, handle: Any) -> None:
        """Join the handle of a sequence to its request."""
        with self._lock:
            # A request can end before its handle is known here.
            if exchange in self._handles:
                self._handles[exchange].append(handle)

    def is_gone(self, exchange: Exchange) -> bool:
        """Whether a request has been found to be waited for by nobody; Triton is not asked."""
        return exchange in self._cancelled

    def stop(self, request_id: str) -> None:
        """Cancel the requests with that id, and those that tensorrt_llm_bls made for it."""
        own = request_id + SEPARATOR
        for exchange in self._open():
            if exchange.request_id == request_id or exchange.request_id.startswith(own):
                self._cancel(exchange)

    def stop_abandoned(self, mark: Mark) -> bool:
        """Cancel the request with that mark, whose client is gone; whether there is one."""
        gone = [exchange for exchange in self._open() if exchange.mark == mark]
        for exchange in gone:
            self._cancel(exchange)
        return bool(gone)

    def cancel_abandoned(self) -> None:
        """Cancel the requests whose time or clients are gone, and once more those that have not ended yet."""
        now_s = time.monotonic()
        for exchange in self._open():
            if exchange in self._cancelled or exchange.expires(now_s) or exchange.is_cancelled():
                self._cancel(exchange)

    def exit_when_lost(self, parent: int) -> None:
        """End this process when its server is gone or hangs; `parent` is the server's process id.

        A stub whose server was killed can wait for it forever, and hold the model's memory. And Triton
        2.51 can deadlock when a client goes away while a response is sent: no stream is served after that,
        though the server says it is ready, and the end of a stub is what its supervisor notices.
        """
        stuck = any(exchange.sending_s > SEND_TIMEOUT_S for exchange in self._open())
        if os.getppid() == parent and not stuck:
            return
        if stuck:
            print(f"a response has been stuck in Triton for {SEND_TIMEOUT_S} s; giving up", file=sys.stderr)
            sys.stderr.flush()
        os._exit(1)

    def _open(self) -> list[Exchange]:
        """The requests that have not ended; the others are forgotten."""
        with self._lock:
            for exchange in [exchange for exchange in self._handles if exchange.done]:
                del self._handles[exchange]
                self._cancelled.discard(exchange)
            return list(self._handles)

    def _cancel(self, exchange: Exchange) -> None:
        with self._lock:
            self._cancelled.add(exchange)
            handles = list(self._handles.get(exchange, ()))
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
        """End after the calls under way; a call that hangs, since the server is dying, is left behind."""
        self._closed.set()
        for thread in self._threads:
            thread.join(JOIN_TIMEOUT_S)

    def _run(self, job: Callable[[], None], period_s: float) -> None:
        while not self._closed.wait(period_s):
            try:
                job()
            except Exception as error:
                # A failed look at one moment must not end cancellation or metrics for good.
                self._log_error(f"{getattr(job, '__qualname__', job)}: {error}")
