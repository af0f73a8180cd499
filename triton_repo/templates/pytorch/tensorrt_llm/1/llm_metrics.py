"""The performance metrics of a request, as upstream's llmapi model names them.

It imports neither Triton nor TensorRT-LLM. Upstream's own model sends every one as text, whatever its
config.pbtxt says; here they are of the types there.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np

_METRICS: tuple[tuple[str, str, str, type], ...] = (
    ("kv_cache_reused_block", "kv_cache_metrics", "num_reused_blocks", np.int32),
    ("kv_cache_missed_block", "kv_cache_metrics", "num_missed_blocks", np.int32),
    ("kv_cache_alloc_new_blocks", "kv_cache_metrics", "num_new_allocated_blocks", np.int32),
    ("kv_cache_alloc_total_blocks", "kv_cache_metrics", "num_total_allocated_blocks", np.int32),
    ("kv_cache_hit_rate", "kv_cache_metrics", "kv_cache_hit_rate", np.float32),
    ("arrival_time_ns", "timing_metrics", "arrival_time", np.int64),
    ("first_scheduled_time_ns", "timing_metrics", "first_scheduled_time", np.int64),
    ("first_token_time_ns", "timing_metrics", "first_token_time", np.int64),
    ("last_token_time_ns", "timing_metrics", "last_token_time", np.int64),
    ("acceptance_rate", "speculative_decoding", "acceptance_rate", np.float32),
    ("total_accepted_draft_tokens", "speculative_decoding", "total_accepted_draft_tokens", np.int32),
    ("total_draft_tokens", "speculative_decoding", "total_draft_tokens", np.int32),
)
"""Tensor, group and attribute in tensorrt_llm's RequestPerfMetrics, data type."""


def perf_metrics(answer: Any) -> dict[str, Any]:
    """Arrays of one value by tensor; empty where the LLM API gives none, as while an answer streams."""
    record = getattr(answer, "request_perf_metrics", None)
    if not record:
        return {}
    return {
        tensor: np.array([_number(getattr(getattr(record, group), name))], dtype=dtype)
        for tensor, group, name, dtype in _METRICS
    }


def _number(value: Any) -> Any:
    """Times are nanoseconds."""
    if isinstance(value, timedelta):
        return (value.days * 86_400 + value.seconds) * 10**9 + value.microseconds * 1000
    return value
