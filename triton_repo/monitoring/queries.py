"""What is asked of a server's metrics: one table for dashboard, rules and `tpforge status --watch`.

Names are Triton's, and those that TensorRT-LLM's backend adds ("Triton Metrics" in triton_backend of
NVIDIA/TensorRT-LLM 1.2; triton-inference-server/server, docs/user_guide/metrics.md). It asks nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Source = Literal["any", "tensorrt", "gpu", "histograms"]


@dataclass(frozen=True)
class Query:
    """One line of a panel; `source` says which servers have its metrics."""

    panel: str
    legend: str
    unit: Literal["ms", "reqps", "short", "percentunit", "bytes", "tokens/s"]
    expression: str
    source: Source = "any"


def called(metric: str, *, window: str = "1m", more: str = "") -> str:
    """The rate of a counter at the models that users call, by server.

    These are the ensemble and tensorrt_llm_bls, where a repository has one; there tensorrt_llm counts the
    same requests once more. The LLM API's repository has tensorrt_llm alone.
    """

    def rate(models: str) -> str:
        labels = ",".join(filter(None, (f'model=~"{models}"', more)))
        return f"sum by (engine, instance) (rate({metric}{{{labels}}}[{window}]))"

    return f"{rate('ensemble|tensorrt_llm_bls')} or {rate('tensorrt_llm')}"


def _mean_ms(metric: str) -> str:
    """Mean milliseconds a request of every model, from two counters."""
    return (
        f"sum by (engine, instance, model) (rate({metric}[1m])) / 1000"
        " / (sum by (engine, instance, model) (rate(nv_inference_request_success[1m])) > 0)"
    )


QUERIES: tuple[Query, ...] = (
    Query("Requests answered", "{{instance}}", "reqps", called("nv_inference_request_success")),
    Query(
        "Requests failed",
        "{{instance}} {{model}} {{reason}}",
        "reqps",
        "sum by (engine, instance, model, reason) (rate(nv_inference_request_failure[1m]))",
    ),
    Query(
        "Latency, mean of a request",
        "{{instance}} {{model}}",
        "ms",
        _mean_ms("nv_inference_request_duration_us"),
    ),
    Query(
        "Time to first response (TTFT)",
        "{{instance}} p95",
        "ms",
        "histogram_quantile(0.95, sum by (engine, instance, le) "
        '(rate(nv_inference_first_response_histogram_ms_bucket{model=~"ensemble|tensorrt_llm"}[5m])))',
        source="histograms",
    ),
    Query(
        "Inter-token latency, mean",
        "{{instance}}",
        "ms",
        'sum by (engine, instance) (nv_trt_llm_request_metrics{request_type="active"})'
        " / (sum by (engine, instance) (rate(nv_llm_output_token_len_sum[1m])) > 0) * 1000",
        source="tensorrt",
    ),
    Query(
        "Queue in Triton",
        "{{instance}} {{model}}",
        "ms",
        _mean_ms("nv_inference_queue_duration_us"),
    ),
    Query(
        "Requests pending in Triton",
        "{{instance}} {{model}}",
        "short",
        "sum by (engine, instance, model) (nv_inference_pending_request_count)",
    ),
    Query(
        "Requests in the runtime",
        "{{instance}} {{request_type}}",
        "short",
        "sum by (engine, instance, request_type) (nv_trt_llm_request_metrics)",
    ),
    Query(
        "Output tokens",
        "{{instance}}",
        "tokens/s",
        "sum by (engine, instance) (rate(nv_llm_output_token_len_sum[1m]))",
        source="tensorrt",
    ),
    Query(
        "KV cache blocks used",
        "{{instance}}",
        "percentunit",
        'sum by (engine, instance) (nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="used"})'
        ' / sum by (engine, instance) (nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max"})',
        source="tensorrt",
    ),
    Query(
        "Requests paused for lack of KV blocks",
        "{{instance}}",
        "short",
        "sum by (engine, instance) "
        '(nv_trt_llm_inflight_batcher_metrics{inflight_batcher_specific_metric="paused_requests"})',
        source="tensorrt",
    ),
    Query(
        "GPU memory used",
        "{{instance}} {{gpu_uuid}}",
        "percentunit",
        "nv_gpu_memory_used_bytes / nv_gpu_memory_total_bytes",
        source="gpu",
    ),
    Query(
        "GPU utilization",
        "{{instance}} {{gpu_uuid}}",
        "percentunit",
        "nv_gpu_utilization",
        source="gpu",
    ),
    Query(
        "GPU imbalance (busiest - idlest)",
        "{{instance}}",
        "percentunit",
        "max by (engine, instance) (nv_gpu_utilization) - min by (engine, instance) (nv_gpu_utilization)",
        source="gpu",
    ),
    Query("Server up", "{{instance}}", "short", 'up{job="triton",engine!=""}'),
    Query(
        "Restarts in an hour",
        "{{instance}}",
        "short",
        'floor(changes(up{job="triton",engine!=""}[1h]) / 2)',
    ),
)


def metric_names(expression: str) -> set[str]:
    """The server's metrics that an expression reads."""
    return set(re.findall(r"\bnv_\w+", expression))
