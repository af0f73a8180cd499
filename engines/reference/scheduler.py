"""In-flight batching: requests join and leave between steps, each step is one batch on the executor.

It turns requests into batches and logits into events. When a rank dies, the requests in flight fail
with an error and the ranks are started again. What one request's options do is that request's error, and
an error that nobody expected fails every request and ends the thread, which its owner is told.
"""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import torch
from torch import Tensor

from .batches import Decode, Logits, Move, Prefill
from .config import EngineConfig, EngineError, load_config
from .executor import Executor, RankFailure
from .in_flight import Counts, Event, Request, refuse_input
from .opening import open_executor
from .sampling import NoToken, Sampler, Sampling, refuse_not_finite

PREFILL_CHUNK = 256
"""Prompt tokens computed between two decode steps, so that a long prompt does not stall the others."""

SHORT_PROMPTS = 4
"""As many short prompts are begun between two decode steps, which take about as long as one such chunk."""

NO_END_ID = -1
"""The end_id of a request that shall run to its last token."""

RESTART_PAUSE_S = 1.0
"""Pause before the ranks are started once more after a start that failed."""


class Scheduler:
    """Runs an engine on a thread of its own; `submit` and `cancel` may be called from any thread.

    `on_death` is called last on that thread when it ends by an error, after every request has failed: the
    process is of no use then. Without it, the error is printed.

    Raises:
        EngineError: the engine cannot be executed.
        RankFailure: the ranks did not start.
    """

    def __init__(
        self,
        engine_dir: str | Path,
        *,
        executor: str = "auto",
        device: str = "auto",
        compute_dtype: str = "auto",
        max_batch_size: int | None = None,
        num_threads: int | None = None,
        on_death: Callable[[Exception], None] | None = None,
    ) -> None:
        self._on_death = on_death or traceback.print_exception
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        self.config: EngineConfig = load_config(engine_dir)
        self.limits = self.config.limits
        self.vocab_size = self.config.vocab_size
        self.end_ids = self.config.end_ids
        self.end_id = self.end_ids[0] if self.end_ids else None
        self.pad_id = self.config.pad_id if self.config.pad_id is not None else self.end_id
        self._num_slots = min(max_batch_size or self.limits.max_batch_size, self.limits.max_batch_size)
        self._open: Callable[[], Executor] = lambda: open_executor(
            self.config,
            kind=executor,
            device=device,
            compute_dtype=compute_dtype,
            num_slots=self._num_slots,
        )
        self._executor: Executor | None = None
        self._waiting: deque[Request] = deque()
        self._decoding: list[Request] = []
        self._prefilling: Request | None = None
        self._wake = threading.Condition()
        self._closed = False
        self._death: str | None = None
        self.num_steps = 0
        """Batches that were computed; it stands still without work, and when the model is stuck."""
        # The ranks are children of this thread: they end when it ends, however it ends.
        self._started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)
        self._thread.start()
        self._started.result()

    def submit(self, input_ids: list[int], sampling: Sampling, on_event: Callable[[Event], None]) -> Request:
        """Queue a request; `on_event` is called on the scheduler's thread, once a token, and must be quick.

        Raises:
            RequestError: names the field that is refused; nothing was queued.
            EngineError: it is closed, or its thread has ended.
        """
        sampling.check(vocab_size=self.vocab_size)
        refuse_input(input_ids, sampling, limits=self.limits, vocab_size=self.vocab_size)
        sampler = Sampler(sampling, input_ids, end_ids=self._end_ids(sampling))
        request = Request(input_ids, sampler, on_event)
        with self._wake:
            if self._closed:
                raise EngineError(self._death or "the scheduler is closed")
            self._waiting.append(request)
            self._wake.notify()
        return request

    def cancel(self, request: Request) -> None:
        """End a request before the next step; its slot is free then. Harmless when it has ended."""
        with self._wake:
            request.cancelled = True
            self._wake.notify()

    def counts(self) -> Counts:
        """How many requests are active and waiting."""
        active = len(self._decoding) + (self._prefilling is not None)
        return Counts(active=active, waiting=len(self._waiting), max=self._num_slots)

    def close(self) -> None:
        """Fail what is in flight and free the ranks."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()

    def _end_ids(self, sampling: Sampling) -> tuple[int, ...]:
        if sampling.end_id is None:
            return self.end_ids
        return () if sampling.end_id == NO_END_ID else (sampling.end_id,)

    def _run(self) -> None:
        try:
            self._executor = self._open()
        except Exception as error:
            # Whatever it is, the constructor waits for it and raises it.
            self._started.set_exception(error)
            return
        self._started.set_result(None)
        try:
            self._serve()
        except Exception as error:
            # A thread that ends in silence would leave its requests, and all later ones, waiting for ever.
            self._die(error)

    def _serve(self) -> None:
        """Step until closed; a failed model is started again, any other error is for the caller."""
        while True:
            with self._wake:
                while not (self._closed or self._has_work() or self._executor is None):
                    self._wake.wait()
                if self._closed:
                    break
            try:
                if self._executor is None:
                    self._executor = self._open()
                if self._has_work():
                    self._step(self._executor)
            except (RankFailure, EngineError, RuntimeError) as error:
                # RuntimeError is how torch reports a failed kernel or allocation.
                self._recover(error)
        self._fail_all("the server is shutting down")

    def _die(self, error: Exception) -> None:
        """Fail all requests, those that wait too, and let no more in; then tell the owner."""
        with self._wake:
            self._death = (
                f"the model's scheduler failed and must be restarted: {type(error).__name__}: {error}"
            )
            self._closed = True
        try:
            self._fail_all(self._death)
        finally:
            self._on_death(error)

    def _has_work(self) -> bool:
        return bool(self._waiting or self._decoding or self._prefilling)

    def _recover(self, error: Exception) -> None:
        """Fail what is in flight and drop the ranks; when they would not even start, wait a little."""
        if self._executor is None:
            with self._wake:
                self._wake.wait(RESTART_PAUSE_S)
        self._fail_all(f"the model failed and is being restarted: {error}")

    def _step(self, executor: Executor) -> None:
        self._drop_cancelled(executor)
        room = PREFILL_CHUNK
        while room > 0 and (request := self._next_prompt()) is not None:
            room -= max(self._prefill(executor, request), PREFILL_CHUNK // SHORT_PROMPTS)
        if self._decoding:
            self._decode(executor)

    def _next_prompt(self) -> Request | None:
        """The prompt that is under way, or the first that waits when a slot is free."""
        with self._wake:
            if self._prefilling is None and self._waiting and len(self._decoding) < self._num_slots:
                self._prefilling = self._waiting.popleft()
        return self._prefilling

    def _prefill(self, executor: Executor, request: Request) -> int:
        """Compute one chunk of the prompt and return its length; after the last, the request is decoding."""
        start = request.num_prefilled
        request.scheduled_ns = request.scheduled_ns or time.monotonic_ns()
        chunk = tuple(request.input_ids[start : start + PREFILL_CHUNK])
        is_last = start + len(chunk) == len(request.input_ids)
        batch = Prefill(
            slot=len(self._decoding),
            start=start,
            tokens=chunk,
            logits=Logits.LAST if is_last else Logits.NONE,
            prompt_length=len(request.input_ids),
        )
        logits = executor.forward(batch)
        self.num_steps += 1
        request.num_prefilled += len(chunk)
        if is_last:
            assert logits is not None
            self._prefilling = None
            self._decoding.append(request)
            if self._take(request, logits[0], best=float(logits[0].max())):
                self._leave(executor, len(self._decoding) - 1)
        return len(chunk)

    def _decode(self, executor: Executor) -> None:
        batch = Decode(
            tokens=tuple(request.next_token for request in self._decoding),
            positions=tuple(request.position for request in self._decoding),
        )
        logits = executor.forward(batch)
        self.num_steps += 1
        assert logits is not None
        best, tokens = (found.tolist() for found in logits.max(-1))
        ended = []
        for slot, request in enumerate(self._decoding):
            if self._take(request, logits[slot], best=best[slot], token=tokens[slot]):
                ended.append(slot)
        for slot in reversed(ended):
            self._leave(executor, slot)

    def _take(self, request: Request, logits: Tensor, *, best: float, token: int | None = None) -> bool:
        """Choose a request's next token; whether the request has ended, as it does when none can be chosen.

        `best` is the largest of `logits`, `token` its index.
        """
        try:
            refuse_not_finite(best)
            if token is not None and request.sampler.sampling.is_plain:
                picked = (token, 0.0)
            else:
                picked = request.sampler.pick(logits)
        except (NoToken, RuntimeError) as error:
            # RuntimeError is how torch refuses: what it refuses here are this request's own numbers.
            request.tell(Event(finished=True, finish_reason="error", error=str(error)))
            return True
        return self._advance(request, *picked)

    def _advance(self, request: Request, token: int, log_prob: float) -> bool:
        """Give a request its next token and tell its listener; whether it has ended."""
        sampler = request.sampler
        if token in sampler.end_ids:
            request.tell(Event(finished=True, finish_reason="end_id", scheduled_ns=request.scheduled_ns))
            return True
        sampler.accept(token)
        request.next_token = token
        reason = None
        if sampler.ends_with_stop_word():
            reason = "stop_words"
        elif len(sampler.output) >= sampler.sampling.max_tokens:
            reason = "length"
        request.tell(
            Event((token,), (log_prob,), reason is not None, reason, scheduled_ns=request.scheduled_ns)
        )
        return reason is not None

    def _leave(self, executor: Executor, slot: int) -> None:
        """Free a slot; the last decoding request moves into it, and a half-filled one behind that."""
        last = len(self._decoding) - 1
        if slot != last:
            executor.move(Move(source=last, target=slot, length=self._decoding[last].position))
            self._decoding[slot] = self._decoding[last]
        self._decoding.pop()
        if self._prefilling is not None and self._prefilling.num_prefilled:
            executor.move(Move(source=last + 1, target=last, length=self._prefilling.num_prefilled))

    def _drop_cancelled(self, executor: Executor) -> None:
        """End what was cancelled; each is told first, since a rank may die while slots move."""
        gone = Event(finished=True, finish_reason="cancelled")
        with self._wake:
            dropped = [request for request in self._waiting if request.cancelled]
            for request in dropped:
                self._waiting.remove(request)
        for request in dropped:
            request.tell(gone)
        if self._prefilling is not None and self._prefilling.cancelled:
            request, self._prefilling = self._prefilling, None
            request.tell(gone)
        for slot in reversed(range(len(self._decoding))):
            if self._decoding[slot].cancelled:
                self._decoding[slot].tell(gone)
                self._leave(executor, slot)

    def _fail_all(self, message: str) -> None:
        """Fail every request in flight and drop the ranks; those still waiting are kept unless closed."""
        failed = [*self._decoding, *([self._prefilling] if self._prefilling else [])]
        self._decoding, self._prefilling = [], None
        with self._wake:
            if self._closed or self._executor is None:
                failed.extend(self._waiting)
                self._waiting.clear()
        executor, self._executor = self._executor, None
        try:
            if executor is not None:
                executor.close()
        finally:
            for request in failed:
                # One listener that fails must not leave the others without an answer.
                with contextlib.suppress(Exception):
                    request.tell(Event(finished=True, finish_reason="error", error=message))
