"""Requests, tokens and KV blocks of the LLM API, as Triton's custom metrics under upstream's names.

It imports no TensorRT-LLM. Metrics are made and set only while a request is in flight: serving/metrics.py
says why.
Sources: TensorRT-LLM 1.2, triton_backend, "Triton Metrics" (names); IterationStats in
cpp/tensorrt_llm/executor/jsonSerialization.cpp (what an iteration says, once enable_iter_perf_stats is set).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import triton_python_backend_utils as pb_utils

_PERIOD_S = 0.1
"""Setting a gauge is a round trip to the server, and an iteration may take 5 ms."""
_WAIT_S, _PAUSE_S = 2, 0.5
_REQUESTS = ("nv_trt_llm_request_metrics", "request_type")
_KV = ("nv_trt_llm_kv_cache_block_metrics", "kv_cache_block_type")
_BATCHER = ("nv_trt_llm_inflight_batcher_metrics", "inflight_batcher_specific_metric")


class Follower:
    """Gives what each iteration of an LLM object says to `take`, on the loop of its requests."""

    def __init__(self, take: Callable[[dict[str, Any]], None], *, log_error: Callable[[str], None]) -> None:
        self._take, self._log_error = take, log_error
        self._task: asyncio.Task[None] | None = None

    def begin(self, llm: Any) -> None:
        """Begin, unless it has begun; called on the loop once a request has, since nothing is told before."""
        if self._task is None:
            self._task = asyncio.ensure_future(self._follow(llm))

    async def end(self) -> None:
        """End, before the LLM object does."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _follow(self, llm: Any) -> None:
        try:
            while True:
                async for said in llm.get_stats_async(_WAIT_S):
                    self._take(said)
                await asyncio.sleep(_PAUSE_S)
        except Exception as error:
            # Requests are answered all the same.
            self._log_error(f"no more statistics of the LLM API: {type(error).__name__}: {error}")


class LlmStats:
    """The metrics of one LLM object."""

    def __init__(self, *, model: str, version: str) -> None:
        self._labels = {"model": model, "version": version}
        self._gauges: dict[str, _Gauges] = {}
        self._counters: dict[str, Any] = {}
        self._families: list[Any] = []
        self._num_open = self._num_active = 0
        self._max_blocks = 0
        self._next_s = 0.0
        self._lock = threading.Lock()
        self.num_steps = 0

    def opened(self, count: int) -> None:
        """Sequences have been accepted; called before they can end."""
        with self._lock:
            self._num_open += count
            self._show_requests()

    def closed(self, count: int, *, num_input_tokens: int, num_output_tokens: int) -> None:
        """Sequences end; called before their last response is sent."""
        with self._lock:
            self._count("input", num_input_tokens)
            self._count("output", num_output_tokens)
            self._num_open -= count
            if self._num_open == 0:
                # The last iteration still held what is free now.
                self._num_active = 0
                self._show_blocks(used=0)
            self._show_requests()

    def refused(self) -> None:
        """A request is refused because of what it asks for; called before it is told so."""
        with self._lock:
            self._increase("tpforge_requests_refused", "requests refused because of what they ask for", 1)

    def failed(self) -> None:
        """A request has no answer; called before it is told so."""
        with self._lock:
            self._increase("tpforge_requests_failed", "requests that failed, whatever they ask for", 1)

    def iteration(self, said: dict[str, Any]) -> None:
        """Show what an iteration says, when it is time."""
        with self._lock:
            self.num_steps += 1
            self._num_active = said["numActiveRequests"]
            if not self._num_open or time.monotonic() < self._next_s:
                return
            self._next_s = time.monotonic() + _PERIOD_S
            if blocks := said.get("kvCacheStats"):
                self._max_blocks = blocks["maxNumBlocks"]
                self._show_blocks(used=blocks["usedNumBlocks"], tokens_per=blocks["tokensPerBlock"])
            if batch := said.get("inflightBatchingStats"):
                self._set(_BATCHER, {"paused_requests": batch["numPausedRequests"]})
            self._show_requests()

    def _show_requests(self) -> None:
        """The front's own model tells of its requests; LlmModelStats does for the llmapi model."""

    def _show_blocks(self, *, used: int, **more: int) -> None:
        if self._max_blocks:
            free, fraction = self._max_blocks - used, used / self._max_blocks
            shown = {"max": self._max_blocks, "free": free, "used": used, "fraction": fraction}
            self._set(_KV, {**shown, **more})

    def _set(self, family: tuple[str, str], values: dict[str, float]) -> None:
        name, label = family
        if name not in self._gauges:
            self._gauges[name] = _Gauges(name, label, self._labels)
        self._gauges[name].set(values)

    def _count(self, kind: str, num_tokens: int) -> None:
        """The sum and the count of upstream's histogram: Triton 24.10's Python models have no histograms."""
        for part, value in (("sum", num_tokens), ("count", 1)):
            self._increase(f"nv_llm_{kind}_token_len_{part}", f"{kind} tokens of requests", value)

    def _increase(self, name: str, description: str, value: int) -> None:
        if name not in self._counters:
            family = pb_utils.MetricFamily(
                name=name, description=description, kind=pb_utils.MetricFamily.COUNTER
            )
            self._families.append(family)
            self._counters[name] = family.Metric(labels=self._labels)
        self._counters[name].increment(value)


class LlmModelStats(LlmStats):
    """With the requests that the LLM API holds: those that wait are all but those of its last iteration.

    So a request that no iteration takes up is seen to wait, though nothing is said any more.
    """

    def _show_requests(self) -> None:
        active = min(self._num_active, self._num_open) if self.num_steps else self._num_open
        self._set(_REQUESTS, {"active": active, "scheduled": active, "waiting": self._num_open - active})
        if self.num_steps and self._num_open:
            self._set(("tpforge_model_progress", ""), {"": self.num_steps})


class _Gauges:
    """The gauges of one family by the value of a label; only changed values are set."""

    def __init__(self, name: str, label: str, labels: dict[str, str]) -> None:
        self._label, self._labels = label, labels
        self._family = pb_utils.MetricFamily(
            name=name, description="of TensorRT-LLM's LLM API", kind=pb_utils.MetricFamily.GAUGE
        )
        self._metrics: dict[str, Any] = {}
        self._shown: dict[str, float] = {}

    def set(self, values: dict[str, float]) -> None:
        for kind, value in values.items():
            if kind not in self._metrics:
                own = {self._label: kind} if self._label else {}
                self._metrics[kind] = self._family.Metric(labels={**self._labels, **own})
            if self._shown.get(kind) != value:
                self._metrics[kind].set(float(value))
                self._shown[kind] = value
