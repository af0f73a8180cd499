"""One request of a client: where its responses go, and when the last of them is sent.

It makes no response but errors. All its methods may be called from any thread.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from .relay import Mark, failure_tensors, is_relayed
from .tensors import FINAL, Unavailable, error_response, response

ERROR_DELAY_S = 0.2


class Exchange:
    """A request that `num_open` sequences (or prompts) answer; the end of the last one is final.

    `timeout_us` is what the client's `timeout` says, 0 without one: microseconds from now. `mark` is its
    name among the models of an ensemble.
    """

    def __init__(
        self, sender: Any, request_id: str, *, num_open: int, timeout_us: int = 0, mark: Mark = ()
    ) -> None:
        self.request_id, self.mark = request_id, mark
        self._timeout_us = timeout_us
        self._deadline_s = time.monotonic() + timeout_us / 1e6 if timeout_us else None
        self._expired = False
        self._sender = sender
        self._num_open = num_open
        self._failures: list[str] = []
        self._answered = False
        self._done = False
        self._sending_since: float | None = None
        # Triton 2.51 dies of a segmentation fault when it is asked whether a request is cancelled while
        # or after its final response is sent, so the two never meet.
        self._lock = threading.Lock()

    @property
    def done(self) -> bool:
        """Whether the final response was sent."""
        return self._done

    @property
    def sending_s(self) -> float:
        """For how long the response under way has been; a send takes less than a millisecond."""
        since = self._sending_since
        return 0.0 if since is None else time.monotonic() - since

    def send(self, answer: Any) -> None:
        """Send a response that ends nothing."""
        with self._lock:
            if not self._expired:
                self._send(answer, flags=0)

    def end(self, answer: Any | None) -> None:
        """End one sequence, with its last response unless that has been sent before."""
        with self._lock:
            answer = None if self._expired else answer
            self._num_open -= 1
            is_last = self._num_open == 0 and not self._failures
            if answer is not None or is_last:
                self._send(answer, flags=FINAL if is_last else 0)
            if self._num_open == 0 and self._failures:
                self._tell_failures()

    def fail(self, message: str) -> None:
        """End one sequence without an answer; all failures are told in one error after the others' ends."""
        with self._lock:
            self._num_open -= 1
            if message not in self._failures:
                self._failures.append(message)
            if self._num_open == 0:
                self._tell_failures()

    def expires(self, now_s: float) -> bool:
        """Whether it has timed out; then no answer is sent any more, and the end of the last is an error.

        False while a response is being sent.
        """
        if not self._lock.acquire(blocking=False):
            return False
        try:
            if self._deadline_s is not None and now_s >= self._deadline_s and not self._done:
                self._expired, self._deadline_s = True, None
                self._failures.append(f"timeout: no complete answer within {self._timeout_us} microseconds")
            return self._expired
        finally:
            self._lock.release()

    def is_cancelled(self) -> bool:
        """Whether the client has gone before the end; False while a response is being sent."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            return not self.done and bool(self._sender.is_cancelled())
        finally:
            self._lock.release()

    def _tell_failures(self) -> None:
        """Send the final error: at once, or when the answers before it have reached the client.

        An ensemble ends at the first error: answers that are still on their way through it are lost then,
        and Triton 2.51 keeps the request in flight for ever.
        """
        message = "; ".join(self._failures)
        if all(isinstance(failure, Unavailable) for failure in self._failures):
            message = Unavailable(message)
        error = error_response(message)
        if not self._answered:
            self._send(error, flags=FINAL)
            return
        if is_relayed(self.request_id):
            self._send(response(failure_tensors(message)), flags=FINAL)
            return
        timer = threading.Timer(ERROR_DELAY_S, self._send_late, [error])
        timer.daemon = True
        timer.start()

    def _send_late(self, error: Any) -> None:
        with self._lock:
            self._send(error, flags=FINAL)

    def _send(self, answer: Any | None, *, flags: int) -> None:
        self._sending_since = time.monotonic()
        self._answered = True
        self._done = flags == FINAL
        if answer is None:
            self._sender.send(flags=flags)
        else:
            self._sender.send(answer, flags=flags)
        self._sending_since = None
