"""How many requests wait and run, as Triton's custom metrics under upstream's names.

Source: TensorRT-LLM 1.2, triton_backend docs, "Triton Metrics": nv_trt_llm_request_metrics.
"""

from __future__ import annotations

from typing import Protocol

import triton_python_backend_utils as pb_utils


class Counts(Protocol):
    """What the scheduler counts."""

    @property
    def active(self) -> int:
        """Requests being decoded."""

    @property
    def waiting(self) -> int:
        """Requests without a slot."""

    @property
    def max(self) -> int:
        """Slots."""


class RequestMetrics:
    """The gauges of one model."""

    def __init__(self, *, model: str, version: str) -> None:
        self._family = pb_utils.MetricFamily(
            name="nv_trt_llm_request_metrics",
            description="TRT LLM request metrics",
            kind=pb_utils.MetricFamily.GAUGE,
        )
        self._gauges = {
            kind: self._family.Metric(labels={"model": model, "version": version, "request_type": kind})
            for kind in ("active", "max", "scheduled", "waiting")
        }

    def update(self, counts: Counts) -> None:
        """Set the gauges; every active request is part of every step."""
        values = {
            "active": counts.active,
            "max": counts.max,
            "scheduled": counts.active,
            "waiting": counts.waiting,
        }
        for kind, value in values.items():
            self._gauges[kind].set(value)
