"""What the metrics of a server come to over a load: gauges as read, counters as their increase.

Every family of Triton and its TensorRT-LLM backend (``nv_``), trtllm-serve and vLLM is kept, histograms by
sum and count. It fetches nothing: `triton_repo.client.metrics` does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tpforge.measure.failures.metric_samples import MetricSample
from tpforge.measure.runs.run import SeriesSummary
from triton_repo.client.metrics import parse_metrics
from triton_repo.load.series import counter, gauge

_PREFIXES = ("nv_", "vllm:", "trtllm_")
_UNITS = (("_us", "us"), ("_bytes", "B"), ("_ratio", "ratio"), ("_utilization", "ratio"), ("_joules", "J"))


def summarize_metrics(texts: Sequence[str], *, source: str) -> dict[str, SeriesSummary]:
    """Gauges as read, counters as their increase; those that stayed at zero are left out.

    Keys are a sample's name with its labels, as the server writes them.

    Raises:
        EnvironmentUnusable: a text of `source` is not Prometheus' format.
    """
    series: dict[str, list[MetricSample]] = {}
    for text in texts:
        for sample in parse_metrics(_without_buckets(text), source=source):
            if sample.name.startswith(_PREFIXES) and math.isfinite(sample.value):
                series.setdefault(sample.key, []).append(sample)
    summaries = {}
    for key, samples in sorted(series.items()):
        values = [sample.value for sample in samples]
        summary = counter(values) if _only_grows(samples[0]) else gauge(values, unit=_unit(samples[0].name))
        if summary.min or summary.max:
            summaries[key] = summary
    return summaries


def _without_buckets(text: str) -> str:
    """The text without the lines of buckets, which are most of it: parsing costs 0.1 ms a line."""
    lines = text.split("\n")
    return "\n".join(line for line in lines if not line.partition("{")[0].rstrip().endswith("_bucket"))


def _only_grows(sample: MetricSample) -> bool:
    in_parts = sample.kind in ("histogram", "summary") and sample.name.endswith(("_sum", "_count"))
    return sample.kind == "counter" or in_parts


def _unit(name: str) -> str:
    return next((unit for ending, unit in _UNITS if name.endswith(ending)), "count")
