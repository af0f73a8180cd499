"""From the scheduler's events to Triton's responses, on a thread of its own.

The scheduler's thread only puts events into a queue, so decoding never waits for Triton. It knows
nothing of prompts' validity or of cancellation.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .detokenize import Aligner
from .generation import Item
from .tensors import FINAL, error_response, response


class Event(Protocol):
    """What the scheduler tells of a request; see the runtime's Event."""

    @property
    def token_ids(self) -> tuple[int, ...]:
        """New tokens."""

    @property
    def log_probs(self) -> tuple[float, ...]:
        """One for each new token."""

    @property
    def finished(self) -> bool:
        """Whether this is the last event."""

    @property
    def error(self) -> str | None:
        """Why there is no answer."""


@dataclass(eq=False)
class Exchange:
    """One Triton request: where its responses go, and how many of its sequences have not ended."""

    sender: Any
    request_id: str
    num_open: int
    handles: list[Any] = field(default_factory=list)
    cancelled: bool = False
    done: bool = False


@dataclass(eq=False)
class Sequence:
    """One sequence being generated; times are of the monotonic clock, in nanoseconds."""

    exchange: Exchange
    item: Item
    batch_index: int
    sequence_index: int
    aligner: Aligner
    arrival_ns: int
    first_token_ns: int = 0
    last_token_ns: int = 0
    token_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    num_sent: int = 0
    cum_log_prob: float = 0.0

    def add(self, event: Event, *, now_ns: int) -> list[int]:
        """Take an event; the tokens to be sent now, when the answer is streamed."""
        if event.token_ids:
            self.first_token_ns = self.first_token_ns or now_ns
            self.last_token_ns = now_ns
        self.token_ids.extend(event.token_ids)
        if self.item.return_log_probs:
            self.log_probs.extend(event.log_probs)
        if not self.item.streaming:
            return []
        ready: list[int] = []
        for token_id in event.token_ids:
            ready.extend(self.aligner.push(token_id))
        if event.finished:
            ready.extend(self.aligner.flush())
        return ready

    def tensors(self, token_ids: list[int], *, finished: bool) -> dict[str, npt.NDArray[Any]]:
        """The tensors of the next response, which holds `token_ids` (new ones when streaming, else all)."""
        item = self.item
        shown = token_ids
        if not item.streaming and not item.exclude_input_in_output:
            shown = [*item.input_ids, *token_ids]
        tensors: dict[str, npt.NDArray[Any]] = {
            "output_ids": np.array([[shown]], dtype=np.int32),
            "sequence_length": np.array([[len(shown)]], dtype=np.int32),
            "batch_index": np.array([[self.batch_index]], dtype=np.int32),
            "sequence_index": np.array([[self.sequence_index]], dtype=np.int32),
        }
        sent = self.num_sent + len(token_ids)
        if item.return_log_probs:
            log_probs = self.log_probs[self.num_sent : sent]
            self.cum_log_prob += sum(log_probs)
            tensors["cum_log_probs"] = np.array([[self.cum_log_prob]], dtype=np.float32)
            tensors["output_log_probs"] = np.array([[log_probs]], dtype=np.float32)
        if item.return_num_input_tokens:
            tensors["num_input_tokens"] = np.array([[len(item.input_ids)]], dtype=np.int32)
        if item.return_num_output_tokens:
            tensors["num_output_tokens"] = np.array([[sent]], dtype=np.int32)
        if item.return_perf_metrics and finished:
            tensors["arrival_time_ns"] = np.array([[self.arrival_ns]], dtype=np.int64)
            tensors["first_token_time_ns"] = np.array([[self.first_token_ns]], dtype=np.int64)
            tensors["last_token_time_ns"] = np.array([[self.last_token_ns]], dtype=np.int64)
        self.num_sent = sent
        return tensors


class Outbox:
    """Sends the responses of all requests, in the order of their events."""

    def __init__(self, *, log_error: Callable[[str], None]) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._log_error = log_error
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    def put(self, sequence: Sequence, event: Event) -> None:
        """Queue an event of a sequence; may be called from any thread."""
        self._jobs.put(partial(_deliver, sequence, event, now_ns=time.monotonic_ns()))

    def refuse(self, exchange: Exchange, message: str) -> None:
        """Queue the refusal of one sequence of a request."""
        self._jobs.put(partial(_refuse, exchange, message))

    def close(self) -> None:
        """Send what is queued, and end."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception as error:
                # The thread serves all requests: a response that cannot be sent must not end it.
                self._log_error(f"a response could not be sent: {error}")


def _deliver(sequence: Sequence, event: Event, *, now_ns: int) -> None:
    """Send what an event completes: a chunk when streaming, everything at the end otherwise."""
    if event.error is not None:
        _refuse(sequence.exchange, event.error)
        return
    ready = sequence.add(event, now_ns=now_ns)
    if not event.finished and not ready:
        return
    tokens = ready if sequence.item.streaming else sequence.token_ids
    answer = response(sequence.tensors(tokens, finished=event.finished))
    flags = _end_sequence(sequence.exchange) if event.finished else 0
    sequence.exchange.sender.send(answer, flags=flags)


def _refuse(exchange: Exchange, message: str) -> None:
    exchange.sender.send(error_response(message), flags=_end_sequence(exchange))


def _end_sequence(exchange: Exchange) -> int:
    """Count a sequence as ended; the flags of its last response."""
    exchange.num_open -= 1
    exchange.done = exchange.num_open == 0
    return FINAL if exchange.done else 0
