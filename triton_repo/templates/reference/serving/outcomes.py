"""How many requests a model refused because of what they ask for, and how many failed: metrics of Triton's.

Triton 2.51 counts both as successes of a Python model, and as two failures each of an ensemble around it. A
request that a full queue turns away is in neither: it may be sent again.
"""

from __future__ import annotations

import triton_python_backend_utils as pb_utils


class Outcomes:
    """The counters of one model, raised while the request is in flight (see serving/metrics.py)."""

    def __init__(self, *, model: str, version: str) -> None:
        labels = {"model": model, "version": version}
        refused, failed = (
            pb_utils.MetricFamily(
                name=f"tpforge_requests_{name}", description=description, kind=pb_utils.MetricFamily.COUNTER
            )
            for name, description in (
                ("refused", "requests refused because of what they ask for"),
                ("failed", "requests that failed, whatever they ask for"),
            )
        )
        self._families = refused, failed
        self._refused, self._failed = refused.Metric(labels=labels), failed.Metric(labels=labels)

    def refused(self) -> None:
        """A request asks for what is not served; called before it is told so."""
        self._refused.increment(1)

    def failed(self) -> None:
        """A request has no answer; called before it is told so."""
        self._failed.increment(1)
