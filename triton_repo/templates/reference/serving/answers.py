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
from .exchange import Exchange
from .generation import Item
from .metrics import RequestMetrics
from .requests import JOIN_TIMEOUT_S
from .tensors import response


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

    @property
    def scheduled_ns(self) -> int:
        """When its prompt was begun, by the monotonic clock; 0 where that is not known."""


@dataclass(eq=False)
class Sequence:
    """One sequence being generated; times are of the monotonic clock, in nanoseconds."""

    exchange: Exchange
    item: Item
    batch_index: int
    sequence_index: int
    aligner: Aligner
    arrival_ns: int
    scheduled_ns: int = 0
    first_token_ns: int = 0
    last_token_ns: int = 0
    token_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    num_sent: int = 0
    cum_log_prob: float = 0.0

    def add(self, event: Event, *, now_ns: int) -> list[int]:
        """Take an event; the tokens to be sent now, when the answer is streamed."""
        self.scheduled_ns = event.scheduled_ns or self.scheduled_ns
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

    def tensors(self, token_ids: list[int]) -> dict[str, npt.NDArray[Any]]:
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
        if item.return_perf_metrics:
            tensors |= self._perf_metrics()
        self.num_sent = sent
        return tensors

    def _perf_metrics(self) -> dict[str, npt.NDArray[Any]]:
        """Upstream's ten values, in every response: its clients read them there.

        The KV cache of a slot is one block, new for every sequence; nothing is drafted.
        """
        times = {
            "arrival_time_ns": self.arrival_ns,
            "first_scheduled_time_ns": self.scheduled_ns,
            "first_token_time_ns": self.first_token_ns,
            "last_token_time_ns": self.last_token_ns,
        }
        counts = {
            "kv_cache_alloc_new_blocks": 1,
            "kv_cache_reused_blocks": 0,
            "kv_cache_alloc_total_blocks": 1,
            "total_accepted_draft_tokens": 0,
            "total_draft_tokens": 0,
        }
        return {
            **{name: np.array([[value]], dtype=np.int64) for name, value in times.items()},
            **{name: np.array([[value]], dtype=np.int32) for name, value in counts.items()},
            "acceptance_rate": np.zeros((1, 1), dtype=np.float32),
        }


class Outbox:
    """Sends the responses of all requests, in the order of their events."""

    def __init__(self, *, metrics: RequestMetrics, log_error: Callable[[str], None]) -> None:
        self._metrics = metrics
        self._log_error = log_error
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    def put(self, sequence: Sequence, event: Event) -> None:
        """Queue an event of a sequence; may be called from any thread."""
        self._jobs.put(partial(self._deliver, sequence, event, now_ns=time.monotonic_ns()))

    def refuse(self, exchange: Exchange, message: str) -> None:
        """Queue the refusal of one sequence of a request."""
        self._jobs.put(partial(self._fail, exchange, message))

    def close(self) -> None:
        """Send what is queued, and end; a send that hangs, since the server is dying, is left behind."""
        self._jobs.put(None)
        self._thread.join(JOIN_TIMEOUT_S)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception as error:
                # The thread serves all requests: a response that cannot be sent must not end it.
                self._log_error(f"a response could not be sent: {error}")

    def _deliver(self, sequence: Sequence, event: Event, *, now_ns: int) -> None:
        """Send what an event completes: a chunk when streaming, everything at the end otherwise."""
        if event.error is not None:
            self._fail(sequence.exchange, event.error)
            return
        ready = sequence.add(event, now_ns=now_ns)
        tokens = ready if sequence.item.streaming else sequence.token_ids
        if event.finished:
            self._metrics.closed()
            sequence.exchange.end(response(sequence.tensors(tokens)))
            return
        self._metrics.tick()
        if ready:
            sequence.exchange.send(response(sequence.tensors(ready)))

    def _fail(self, exchange: Exchange, message: str) -> None:
        self._metrics.closed()
        exchange.fail(message)
