"""How many requests a server is working on, by its Prometheus metrics.

It reads one number of one family; it keeps no history.
"""

from __future__ import annotations

from collections.abc import Iterable

from tpforge.errors import EnvironmentUnusable
from tpforge.measure.failures.metric_samples import MetricSample
from triton_repo.client.metrics import fetch_metrics, parse_metrics

FAMILY = "nv_trt_llm_request_metrics"


class ActiveRequests:
    """The gauge of requests that hold a slot."""

    def __init__(self, url: str, *, deadline_s: float = 5.0) -> None:
        self.url = url
        self._deadline_s = deadline_s

    def read(self) -> int | None:
        """Requests active now; None when the server has no such metric.

        Raises:
            EnvironmentUnusable: nothing answers at the URL, or not with metrics.
        """
        try:
            text = fetch_metrics(self.url, timeout_s=self._deadline_s)
        except OSError as error:
            raise EnvironmentUnusable(f"{self.url}: no metrics there: {error}") from error
        return count_active(parse_metrics(text, source=self.url))


def count_active(samples: Iterable[MetricSample]) -> int | None:
    """The number of active requests over all models; None when the metric is not there."""
    counts = [
        sample.value
        for sample in samples
        if sample.name == FAMILY and sample.labels.get("request_type") == "active"
    ]
    return int(sum(counts)) if counts else None
