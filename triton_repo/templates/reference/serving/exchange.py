"""One request of a client: where its responses go, and when the last of them is sent.

It does not make responses. All its methods may be called from any thread.
"""

from __future__ import annotations

import threading
from typing import Any

from .tensors import FINAL


class Exchange:
    """A request that `num_open` sequences (or prompts) answer; the end of the last one is final."""

    def __init__(self, sender: Any, request_id: str, *, num_open: int) -> None:
        self.request_id = request_id
        self._sender = sender
        self._num_open = num_open
        # Triton 2.51 dies of a segmentation fault when it is asked whether a request is cancelled while
        # or after its final response is sent, so the two never meet.
        self._lock = threading.Lock()

    @property
    def done(self) -> bool:
        """Whether the final response was sent."""
        return self._num_open == 0

    def send(self, answer: Any) -> None:
        """Send a response that ends nothing."""
        with self._lock:
            self._sender.send(answer)

    def end(self, answer: Any | None) -> None:
        """End one sequence, with its last response unless that has been sent before."""
        with self._lock:
            self._num_open -= 1
            if answer is not None:
                self._sender.send(answer, flags=FINAL if self.done else 0)
            elif self.done:
                self._sender.send(flags=FINAL)

    def is_cancelled(self) -> bool:
        """Whether the client has gone before the end."""
        with self._lock:
            return not self.done and bool(self._sender.is_cancelled())
