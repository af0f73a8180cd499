"""How many requests a server says that it works on, wherever its kind of server says so.

It reads; what follows from the number is `traffic`'s. Sources: NVIDIA/TensorRT-LLM, tensorrt_llm/serve/
openai_server.py (/metrics is JSON, /prometheus/metrics with return_perf_metrics); ai-dynamo/dynamo,
docs/observability/metrics.md; vllm, docs/usage/metrics.md.
"""

from __future__ import annotations

import json
from typing import Protocol

from tpforge.errors import EnvironmentUnusable
from triton_repo.client.metrics import fetch_metrics, parse_metrics
from triton_repo.smoke.metrics import count_active

GAUGES = (
    "trtllm_num_requests_running",
    "dynamo_frontend_inflight_requests",
    "vllm:num_requests_running",
)
PATHS = ("/prometheus/metrics", "/metrics")
_ITERATION = "numActiveRequests"
"""Of the statistics of an iteration, which trtllm-serve's /metrics lists with enable_iter_perf_stats."""


class Running(Protocol):
    """A count of requests that hold a slot."""

    def read(self) -> int | None:
        """Requests now; None when the server does not tell."""


class ServerGauge:
    """The first number of running requests that one of the URLs has; one is asked again once it had one."""

    def __init__(self, urls: tuple[str, ...], *, deadline_s: float = 5.0) -> None:
        self._urls, self._deadline_s = urls, deadline_s
        self._source: str | None = None

    def read(self) -> int | None:
        """Requests now; None when none of the URLs tells."""
        for url in self._urls if self._source is None else (self._source,):
            found = self._read(url)
            if found is not None:
                self._source = url
                return found
        # Without an iteration since the last look there are no statistics: nothing is being computed.
        return None if self._source is None else 0

    def _read(self, url: str) -> int | None:
        try:
            text = fetch_metrics(url, timeout_s=self._deadline_s)
        except OSError:
            return None
        return count_running(text, source=url)


def count_running(text: str, *, source: str) -> int | None:
    """Running requests in Prometheus' text or in trtllm-serve's list of iterations; None when not there."""
    if text.lstrip().startswith("["):
        try:
            iterations = json.loads(text)
            return int(iterations[-1][_ITERATION]) if iterations else None
        except (ValueError, KeyError, TypeError):
            return None
    try:
        samples = parse_metrics(text, source=source)
    except EnvironmentUnusable:
        return None
    counts = [sample.value for sample in samples if sample.name in GAUGES]
    return int(sum(counts)) if counts else count_active(samples)
