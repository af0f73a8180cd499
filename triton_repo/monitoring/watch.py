"""What a server does now, as lines for a terminal: models, queue, tokens a second, KV cache, memory a rank.

It reads the server's metrics twice and its processes once; it prints nothing. trtllm-serve has names of its
own, trtllm_*.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tpforge.measure.failures.metric_samples import MetricSample
from tpforge.units import format_bytes

if TYPE_CHECKING:
    from triton_repo.serve.local import Status

_MEANT = ("ensemble", "tensorrt_llm")


@dataclass(frozen=True)
class Reading:
    """One scrape: the samples, and when."""

    samples: tuple[MetricSample, ...]
    seconds: float

    def total(self, name: str, **labels: str) -> float | None:
        """The sum of the samples of a metric with these labels; None when there are none."""
        found = [
            sample.value
            for sample in self.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        return sum(found) if found else None


def scrape(status: Status) -> Reading | None:
    """The metrics of a server; None when it does not answer.

    Raises:
        EnvironmentUnusable: what answers is no metrics port.
    """
    from triton_repo.client.metrics import fetch_metrics, parse_metrics

    if status.server is None or status.phase != "ready":
        return None
    try:
        text, seconds = fetch_metrics(status.server.metrics_url), time.monotonic()
    except OSError:
        return None
    return Reading(parse_metrics(text, source=status.server.metrics_url), seconds)


def rows(now: Reading, before: Reading | None) -> list[tuple[str, str]]:
    """What the metrics say, by name; rates need an earlier reading."""
    running = now.total("nv_trt_llm_request_metrics", request_type="active")
    found = [("requests running", _count(_first(running, now.total("trtllm_num_requests_running"))))]
    waiting = now.total("nv_trt_llm_request_metrics", request_type="waiting")
    waiting = _first(waiting, now.total("trtllm_num_requests_waiting"))
    pending = now.total("nv_inference_pending_request_count")
    found.append(("requests waiting", f"{_count(waiting)} in the runtime, {_count(pending)} in Triton"))
    if before is not None and now.seconds > before.seconds:
        for model in _MEANT:
            found += _rates(model, now, before)
        tokens = _rate("nv_llm_output_token_len_sum", now, before)
        tokens = _first(tokens, _rate("trtllm_generation_tokens_total", now, before))
        found.append(("output tokens/s", "no such metric" if tokens is None else f"{tokens:.1f}"))
    used = now.total("nv_trt_llm_kv_cache_block_metrics", kv_cache_block_type="used")
    most = now.total("nv_trt_llm_kv_cache_block_metrics", kv_cache_block_type="max")
    kv = f"{used:.0f} of {most:.0f} blocks" if used is not None and most else "no such metric"
    share = now.total("trtllm_kv_cache_utilization")
    found.append(("KV cache", kv if share is None else f"{share:.0%} of the blocks"))
    for sample in now.samples:
        if sample.name == "nv_gpu_memory_used_bytes":
            found.append((f"GPU {sample.labels.get('gpu_uuid', '?')}", format_bytes(int(sample.value))))
    return found


def memory_rows(server_pid: int) -> list[tuple[str, str]]:
    """The resident memory of each model's process, and of the ranks that it started."""
    import psutil

    from triton_repo.serve.processes import stubs_of

    found = []
    for stub, model in sorted(stubs_of(server_pid).items(), key=lambda pair: pair[1]):
        try:
            process = psutil.Process(stub.pid)
            found.append((f"memory of {model}", format_bytes(process.memory_info().rss)))
            for rank, child in enumerate(process.children(recursive=True)):
                found.append((f"  process {rank + 1} of it", format_bytes(child.memory_info().rss)))
        except psutil.NoSuchProcess:
            continue
    return found


def _rates(model: str, now: Reading, before: Reading) -> list[tuple[str, str]]:
    answered = _rate("nv_inference_request_success", now, before, model=model)
    if answered is None:
        return []
    failed = _rate("nv_inference_request_failure", now, before, model=model) or 0.0
    text = f"{answered:.2f} answered/s, {failed:.2f} failed/s"
    duration = _rate("nv_inference_request_duration_us", now, before, model=model)
    if answered > 0 and duration is not None:
        text += f", {duration / answered / 1e3:.0f} ms on average"
    return [(model, text)]


def _rate(name: str, now: Reading, before: Reading, **labels: str) -> float | None:
    """The increase a second; None where either reading has no such metric. A restart counts from zero."""
    last, first = now.total(name, **labels), before.total(name, **labels)
    if last is None or first is None:
        return None
    return (last - first if last >= first else last) / (now.seconds - before.seconds)


def _first(of_triton: float | None, of_trtllm_serve: float | None) -> float | None:
    return of_trtllm_serve if of_triton is None else of_triton


def _count(value: float | None) -> str:
    return "no such metric" if value is None else f"{value:.0f}"
