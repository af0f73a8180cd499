"""What is asked of a server's metrics: one table for dashboard, rules and `tpforge status --watch`.

Names are Triton's, and those that TensorRT-LLM's backend adds ("Triton Metrics" in triton_backend of
NVIDIA/TensorRT-LLM 1.2; triton-inference-server/server, docs/user_guide/metrics.md), which our models over
the LLM API use too; trtllm_* are of trtllm-serve (tensorrt_llm/metrics/collector.py @050f80def8df). It asks
nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Source = Literal["any", "trtllm", "triton", "gpu", "histograms"]


@dataclass(frozen=True)
class Query:
    """One line of a panel; `source` says which servers have its metrics.

    trtllm is TensorRT-LLM, compiled or by the LLM API: the reference runtime has no such metric; triton is
    Triton alone, gpu Triton where there are GPUs.
    """

    panel: str
    legend: str
    unit: Literal["ms", "reqps", "short", "percentunit", "bytes", "tokens/s"]
    expression: str
    source: Source = "any"


OF = "namespace, engine, pod, instance"
"""A server: where there is no Kubernetes, its namespace and pod are empty."""
UP = 'up{job=~"triton|trtllm-serve",engine!=""}'
"""Of our servers: every target gives them one of these jobs, and the engine's name."""
_METRIC = re.compile(r"\b(nv_\w+|trtllm_\w+|tpforge[_:][\w:]+|up)\b(?!\")(?:\{)?")
WAITING = (
    f'sum by ({OF}) (nv_trt_llm_request_metrics{{request_type="waiting"}}'
    ' or nv_inference_pending_request_count{model="tensorrt_llm"} or trtllm_num_requests_waiting)'
)
"""Those in the runtime, and those before it: a model that is not decoupled leaves them to Triton."""
KV_USED = (
    f'sum by ({OF}) (nv_trt_llm_kv_cache_block_metrics{{kv_cache_block_type="used"}})'
    f' / sum by ({OF}) (nv_trt_llm_kv_cache_block_metrics{{kv_cache_block_type="max"}})'
    f" or max by ({OF}) (trtllm_kv_cache_utilization)"
)
TOKENS = (
    f"sum by ({OF}) (rate(nv_llm_output_token_len_sum[1m]))"
    f" or sum by ({OF}) (rate(trtllm_generation_tokens_total[1m]))"
)
ACTIVE = f'sum by ({OF}) (nv_trt_llm_request_metrics{{request_type="active"}} or trtllm_num_requests_running)'


def selected(expression: str, labels: str) -> str:
    """An expression of those servers alone that have these labels, as PromQL writes them."""

    def narrowed(match: re.Match[str]) -> str:
        opened = match[0].endswith("{")
        return f"{match[1]}{{{labels}{',' if opened else '}'}"

    return _METRIC.sub(narrowed, expression)


def called(metric: str, *, window: str = "1m", more: str = "") -> str:
    """The rate of a counter at the models that users call, by server.

    These are the ensemble and tensorrt_llm_bls, where a repository has one; there tensorrt_llm counts the
    same requests once more. The LLM API's repository has tensorrt_llm alone.
    """

    def rate(models: str) -> str:
        labels = ",".join(filter(None, (f'model=~"{models}"', more)))
        return f"sum by (namespace, engine, pod, instance) (rate({metric}{{{labels}}}[{window}]))"

    return f"{rate('ensemble|tensorrt_llm_bls')} or {rate('tensorrt_llm')}"


def rate_of(metric: str, *, window: str = "1m", labels: str = "") -> str:
    """The rate of a counter of trtllm-serve, by server."""
    return f"sum by ({OF}) (rate({metric}{labels}[{window}]))"


def mean_of(histogram: str) -> str:
    """The mean of a minute of a histogram of trtllm-serve, in milliseconds."""
    return f"1000 * {rate_of(f'{histogram}_sum')} / ({rate_of(f'{histogram}_count')} > 0)"


SUCCESS, ERROR = "trtllm_request_success_total", "trtllm_request_error_total"
"""Of trtllm-serve: requests that ended by their reason, and what was refused or failed by HTTP status."""


def _mean_ms(metric: str) -> str:
    """Mean milliseconds a request of every model, from two counters."""
    return (
        f"sum by (namespace, engine, pod, instance, model) (rate({metric}[1m])) / 1000"
        " / (sum by (namespace, engine, pod, instance, model) (rate(nv_inference_request_success[1m])) > 0)"
    )


QUERIES: tuple[Query, ...] = (
    Query(
        "Requests answered",
        "{{pod}} {{instance}}",
        "reqps",
        f"{called('nv_inference_request_success')} or {rate_of(SUCCESS)}",
    ),
    Query(
        "Requests failed",
        "{{pod}} {{instance}} {{model}} {{reason}}",
        "reqps",
        f"sum by ({OF}, model, reason) (rate(nv_inference_request_failure[1m]))"
        f" or label_replace(sum by ({OF}, http_code) (rate({ERROR}[1m])),"
        ' "reason", "HTTP $1", "http_code", "(.*)")',
    ),
    Query(
        "Latency, mean of a request",
        "{{pod}} {{instance}} {{model}}",
        "ms",
        f"{_mean_ms('nv_inference_request_duration_us')} or {mean_of('trtllm_e2e_request_latency_seconds')}",
    ),
    Query(
        "Time to first response (TTFT)",
        "{{pod}} {{instance}} p95",
        "ms",
        "histogram_quantile(0.95, sum by (namespace, engine, pod, instance, le) "
        '(rate(nv_inference_first_response_histogram_ms_bucket{model=~"ensemble|tensorrt_llm"}[5m])))'
        f" or 1000 * histogram_quantile(0.95, sum by ({OF}, le) "
        "(rate(trtllm_time_to_first_token_seconds_bucket[5m])))",
        source="histograms",
    ),
    Query(
        "Inter-token latency, mean",
        "{{pod}} {{instance}}",
        "ms",
        f"({ACTIVE}) / (({TOKENS}) > 0) * 1000",
        source="trtllm",
    ),
    Query(
        "Queue before the runtime",
        "{{pod}} {{instance}} {{model}}",
        "ms",
        f"{_mean_ms('nv_inference_queue_duration_us')} or {mean_of('trtllm_request_queue_time_seconds')}",
    ),
    Query(
        "Requests pending in Triton",
        "{{pod}} {{instance}} {{model}}",
        "short",
        "sum by (namespace, engine, pod, instance, model) (nv_inference_pending_request_count)",
        source="triton",
    ),
    Query(
        "Requests in the runtime",
        "{{pod}} {{instance}} {{request_type}}",
        "short",
        "sum by (namespace, engine, pod, instance, request_type) (nv_trt_llm_request_metrics"
        ' or label_replace(trtllm_num_requests_running, "request_type", "active", "", "")'
        ' or label_replace(trtllm_num_requests_waiting, "request_type", "waiting", "", ""))',
    ),
    Query(
        "Output tokens",
        "{{pod}} {{instance}}",
        "tokens/s",
        TOKENS,
        source="trtllm",
    ),
    Query(
        "KV cache blocks used",
        "{{pod}} {{instance}}",
        "percentunit",
        KV_USED,
        source="trtllm",
    ),
    Query(
        "Requests paused for lack of KV blocks",
        "{{pod}} {{instance}}",
        "short",
        "sum by (namespace, engine, pod, instance) "
        '(nv_trt_llm_inflight_batcher_metrics{inflight_batcher_specific_metric="paused_requests"}'
        " or trtllm_num_paused_requests)",
        source="trtllm",
    ),
    Query(
        "GPU memory used",
        "{{pod}} {{instance}} {{gpu_uuid}}",
        "percentunit",
        "nv_gpu_memory_used_bytes / nv_gpu_memory_total_bytes",
        source="gpu",
    ),
    Query(
        "GPU utilization",
        "{{pod}} {{instance}} {{gpu_uuid}}",
        "percentunit",
        "nv_gpu_utilization",
        source="gpu",
    ),
    Query(
        "GPU imbalance (busiest - idlest)",
        "{{pod}} {{instance}}",
        "percentunit",
        f"max by ({OF}) (nv_gpu_utilization) - min by ({OF}) (nv_gpu_utilization)",
        source="gpu",
    ),
    Query("Server up", "{{pod}} {{instance}}", "short", UP),
    Query(
        "Restarts in an hour",
        "{{pod}} {{instance}}",
        "short",
        f"floor(changes({UP}[1h]) / 2)",
    ),
)


def metric_names(expression: str) -> set[str]:
    """The server's metrics that an expression reads."""
    return set(re.findall(r"\bnv_\w+", expression))
