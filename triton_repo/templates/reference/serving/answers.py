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
from .outcomes import Outcomes
from .requests import JOIN_TIMEOUT_S
from .stop_text import StopText
from .tensors import response
from .tokenizer import Tokenizer


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
    tokenizer: Tokenizer
    arrival_ns: int
    stop: StopText
    handle: Any = None
    stopped: bool = False
    ended: bool = False
    scheduled_ns: int = 0
    first_token_ns: int = 0
    last_token_ns: int = 0
    token_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    num_sent: int = 0
    cum_log_prob: float = 0.0

    def __post_init__(self) -> None:
        self._aligner = Aligner(self.tokenizer.decode)

    @property
    def is_waiting(self) -> bool:
        """Whether it has neither ended nor a token yet."""
        return not (self.ended or self.first_token_ns or self.exchange.done)

    def add(self, event: Event, *, now_ns: int) -> list[int]:
        """Take an event; the tokens to be sent now, when the answer is streamed.

        `stopped` says afterwards whether a stop word has ended the answer.
        """
        self.scheduled_ns = event.scheduled_ns or self.scheduled_ns
        if event.token_ids:
            self.first_token_ns = self.first_token_ns or now_ns
            self.last_token_ns = now_ns
        if self.item.return_log_probs:
            self.log_probs.extend(event.log_probs)
        before = len(self.token_ids)
        for token_id in event.token_ids:
            if not self.stopped:
                self._accept(self._aligner.push(token_id))
        if event.finished and not self.stopped:
            self._accept(self._aligner.flush())
        return self.token_ids[before:] if self.item.streaming else []

    def _accept(self, chunk: list[int]) -> None:
        """Add tokens that are whole characters, or what of them is up to the end of a stop word."""
        text = self.tokenizer.decode(chunk) if self.stop and chunk else ""
        end = self.stop.push(text)
        self.stopped = end is not None
        if end is not None and end < len(text) and (shorter := self.tokenizer.respelled(text[:end])):
            start = len(self.token_ids)
            if self.item.return_log_probs:
                # The first of the tokens in their place has their probability, the others add nothing to it.
                together = sum(self.log_probs[start : start + len(chunk)])
                self.log_probs[start:] = [together, *[0.0] * (len(shorter) - 1)]
            chunk = shorter
        self.token_ids.extend(chunk)

    def tensors(self, token_ids: list[int]) -> dict[str, npt.NDArray[Any]]:
        """The tensors of the next response, which holds `token_ids` (new ones when streaming, else all)."""
        item = self.item
        shown = token_ids
        if not item.streaming and not item.exclude_input_in_output:
            shown = [*item.input_ids, *token_ids]
        mark = self.exchange.mark if item.streaming else ()
        tensors: dict[str, npt.NDArray[Any]] = {
            "output_ids": np.array([[[*shown, *mark]]], dtype=np.int32),
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
            # Of this response, as TensorRT-LLM's backend counts them.
            tensors["num_output_tokens"] = np.array([[len(token_ids)]], dtype=np.int32)
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

    def __init__(
        self,
        *,
        metrics: RequestMetrics,
        outcomes: Outcomes,
        cancel: Callable[[Any], None],
        log_error: Callable[[str], None],
    ) -> None:
        self._metrics, self._outcomes = metrics, outcomes
        self._cancel = cancel
        self._log_error = log_error
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    def put(self, sequence: Sequence, event: Event) -> None:
        """Queue an event of a sequence; may be called from any thread."""
        self._jobs.put(partial(self._deliver, sequence, event, now_ns=time.monotonic_ns()))

    def ask(self, sequence: Sequence) -> None:
        """Queue a response without a token to a stream, unless it has one by then (see roll_call.py)."""
        self._jobs.put(partial(self._send_nothing, sequence))

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
        if sequence.ended:
            return
        if event.error is not None:
            sequence.ended = True
            self._outcomes.failed()
            self._fail(sequence.exchange, event.error)
            return
        ready = sequence.add(event, now_ns=now_ns)
        tokens = ready if sequence.item.streaming else sequence.token_ids
        if event.finished or sequence.stopped:
            sequence.ended = True
            if not event.finished and sequence.handle is not None:
                self._cancel(sequence.handle)
            self._metrics.closed()
            sequence.exchange.end(response(sequence.tensors(tokens)))
            return
        self._metrics.tick()
        if ready:
            sequence.exchange.send(response(sequence.tensors(ready)))

    def _send_nothing(self, sequence: Sequence) -> None:
        if sequence.is_waiting:
            sequence.exchange.send(response(sequence.tensors([])))

    def _fail(self, exchange: Exchange, message: str) -> None:
        self._metrics.closed()
        exchange.fail(message)
