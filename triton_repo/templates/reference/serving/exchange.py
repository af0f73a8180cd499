"""One request of a client: where its responses go, and when the last of them is sent.

It makes no response but errors. All its methods may be called from any thread.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from .tensors import FINAL, error_response


class Exchange:
    """A request that `num_open` sequences (or prompts) answer; the end of the last one is final."""

    def __init__(self, sender: Any, request_id: str, *, num_open: int) -> None:
        self.request_id = request_id
        self._sender = sender
        self._num_open = num_open
        self._failures: list[str] = []
        self._sending_since: float | None = None
        # Triton 2.51 dies of a segmentation fault when it is asked whether a request is cancelled while
        # or after its final response is sent, so the two never meet.
        self._lock = threading.Lock()

    @property
    def done(self) -> bool:
        """Whether the final response was sent."""
        return self._num_open == 0

    @property
    def sending_s(self) -> float:
        """For how long the response under way has been; a send takes less than a millisecond."""
        since = self._sending_since
        return 0.0 if since is None else time.monotonic() - since

    def send(self, answer: Any) -> None:
        """Send a response that ends nothing."""
        with self._lock:
            self._send(answer, flags=0)

    def end(self, answer: Any | None) -> None:
        """End one sequence, with its last response unless that has been sent before."""
        with self._lock:
            self._num_open -= 1
            if self.done and self._failures:
                if answer is not None:
                    self._send(answer, flags=0)
                self._send_failures()
            elif answer is not None or self.done:
                self._send(answer, flags=FINAL if self.done else 0)

    def fail(self, message: str) -> None:
        """End one sequence without an answer; all failures are told at the end of the others.

        An ensemble ends its request at the first error, and Triton 2.51 keeps that in flight for ever when
        more responses follow. So the error is the one final response.
        """
        with self._lock:
            self._num_open -= 1
            if message not in self._failures:
                self._failures.append(message)
            if self.done:
                self._send_failures()

    def is_cancelled(self) -> bool:
        """Whether the client has gone before the end; False while a response is being sent."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            return not self.done and bool(self._sender.is_cancelled())
        finally:
            self._lock.release()

    def _send_failures(self) -> None:
        self._send(error_response("; ".join(self._failures)), flags=FINAL)

    def _send(self, answer: Any | None, *, flags: int) -> None:
        self._sending_since = time.monotonic()
        if answer is None:
            self._sender.send(flags=flags)
        else:
            self._sender.send(answer, flags=flags)
        self._sending_since = None
