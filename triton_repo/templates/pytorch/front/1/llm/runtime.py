"""Requests of the front as generations of one LLM object, on an event loop of its own.

It knows tokens only: text is preprocessing's and postprocessing's. `tensorrt_llm` is imported when it opens.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from .errors import EngineError
from .llm_stats import Follower, LlmStats
from .sampling import ending_tokens, sampling_keywords

_JOIN_TIMEOUT_S = 30


@dataclass(frozen=True)
class Event:
    """New tokens of a request; the last event of a request is `finished`.

    `scheduled_ns` stays 0, since the LLM API does not tell.
    """

    token_ids: tuple[int, ...] = ()
    log_probs: tuple[float, ...] = ()
    finished: bool = False
    finish_reason: str | None = None
    error: str | None = None
    scheduled_ns: int = 0


@dataclass(frozen=True)
class Counts:
    """Requests in the LLM API's hands; it queues by itself, so that none waits here."""

    active: int
    waiting: int = 0
    free: int = 0


@dataclass(eq=False)
class Request:
    """A generation under way; `output` is upstream's, once there is one."""

    on_event: Callable[[Event], None]
    output: Any = None
    cancelled: bool = False
    future: Future[None] | None = None


class LlmRuntime:
    """The LLM API behind the interface that serving.generating asks for.

    Raises:
        EngineError: the LLM API does not take its arguments, or cannot load the model.
    """

    def __init__(
        self,
        arguments: dict[str, Any],
        *,
        stats: LlmStats,
        log_error: Callable[[str], None],
        vocab_size: int,
        end_ids: tuple[int, ...],
        decode: Callable[[Sequence[int]], str],
    ) -> None:
        from tensorrt_llm import LLM, SamplingParams

        self.vocab_size, self.end_id = vocab_size, end_ids[0] if end_ids else None
        self._end_ids = end_ids
        self._decode, self._sampling_params = decode, SamplingParams
        self._requests: set[Request] = set()
        self._stats = stats
        self._tells = bool(arguments.get("enable_iter_perf_stats"))
        self._follower = Follower(stats.iteration, log_error=log_error)
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="llm", daemon=True)
        self._thread.start()
        try:
            self._llm = LLM(**arguments)
        except Exception as error:
            # Whatever keeps it from loading must end the load, not the process.
            self._end_loop()
            raise EngineError(f"the LLM API refused model.yaml: {error}") from error

    @property
    def num_steps(self) -> int:
        """Iterations of the LLM API, as far as it told of them."""
        return self._stats.num_steps

    def submit(
        self, input_ids: list[int], sampling: dict[str, Any], on_event: Callable[[Event], None]
    ) -> Request:
        """Begin a generation.

        Raises:
            RequestError: the LLM API has nothing for what is asked.
        """
        keywords = sampling_keywords(sampling, end_ids=self._end_ids, decode=self._decode)
        ends = ending_tokens(sampling, end_ids=self._end_ids)
        request = Request(on_event)
        with self._lock:
            self._requests.add(request)
        request.future = asyncio.run_coroutine_threadsafe(
            self._generate(request, input_ids, keywords, ends), self._loop
        )
        return request

    def cancel(self, handle: Request) -> None:
        """Abort a generation; its last event comes all the same."""
        handle.cancelled = True
        if handle.output is not None:
            self._loop.call_soon_threadsafe(handle.output.abort)

    def counts(self) -> Counts:
        """The generations under way."""
        with self._lock:
            return Counts(active=len(self._requests))

    def close(self) -> None:
        """Abort what is under way, and stop the LLM API."""
        with self._lock:
            requests = list(self._requests)
        for request in requests:
            self.cancel(request)
        for request in requests:
            if request.future is not None:
                request.future.result(_JOIN_TIMEOUT_S)
        asyncio.run_coroutine_threadsafe(self._follower.end(), self._loop).result(_JOIN_TIMEOUT_S)
        self._llm.shutdown()
        self._end_loop()

    async def _generate(
        self, request: Request, input_ids: list[int], keywords: dict[str, Any], ends: tuple[int, ...]
    ) -> None:
        """Tell of every token before the end token, which this contract leaves out.

        Source: TensorRT-LLM 1.2, _torch/pyexecutor/sampler.py adds a token before it looks whether it ends
        the request, and executor/result.py takes away stop words only.
        """
        sent = 0
        self._stats.opened(1)
        try:
            params = self._sampling_params(**keywords)
            request.output = self._llm.generate_async(input_ids, params, streaming=True)
            if request.cancelled:
                request.output.abort()
            if self._tells:
                self._follower.begin(self._llm)
            async for output in request.output:
                tokens = tuple(output.outputs[0].token_ids[sent:])
                sent += len(tokens)
                if text := tuple(takewhile(lambda token: token not in ends, tokens)):
                    request.on_event(Event(text))
            reason = request.output.outputs[0].finish_reason if request.output.outputs else None
            last = Event(finished=True, finish_reason=reason)
        except Exception as error:
            # A generation that fails must not take the loop, and so all the others, with it.
            last = Event(finished=True, error=f"{type(error).__name__}: {error}")
        self._stats.closed(1, num_input_tokens=len(input_ids), num_output_tokens=sent)
        request.on_event(last)
        with self._lock:
            self._requests.discard(request)

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_JOIN_TIMEOUT_S)
        if not self._thread.is_alive():
            self._loop.close()
