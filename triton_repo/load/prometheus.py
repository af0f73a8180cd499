"""A server's metrics, fetched as text while a load runs, and parsed when it is over.

Every family of Triton and its TensorRT-LLM backend (``nv_``), trtllm-serve and vLLM is kept, histograms by
sum and count.
"""

from __future__ import annotations

import math
import re
import urllib.error
import urllib.request
from collections.abc import Sequence

from tpforge.measure.run import SeriesSummary
from triton_repo.load.series import counter, gauge

_NAME = r"((?:nv_|vllm:|trtllm_)[\w:]+)"
_SAMPLE = re.compile(rf"^{_NAME}(\{{[^}}]*\}})?\s+(\S+)", re.MULTILINE)
_TYPE = re.compile(rf"^# TYPE {_NAME} (\w+)", re.MULTILINE)
_UNITS = (("_us", "us"), ("_bytes", "B"), ("_ratio", "ratio"), ("_utilization", "ratio"), ("_joules", "J"))


def fetch_metrics(url: str, *, timeout_s: float = 3.0) -> str:
    """The text of a metrics endpoint.

    Raises:
        OSError: nothing answers at `url`, or with an error.
    """
    # No proxy: the metrics port is the server's own.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=timeout_s) as answer:
        return str(answer.read().decode("utf-8", errors="replace"))


def summarize_metrics(texts: Sequence[str]) -> dict[str, SeriesSummary]:
    """Gauges as read, counters as their increase; those that stayed at zero are left out.

    Keys are a sample's name with its labels, as the server writes them.
    """
    series: dict[str, list[float]] = {}
    kinds: dict[str, str] = {}
    for text in texts:
        kinds.update(_TYPE.findall(text))
        for name, labels, value in _SAMPLE.findall(text):
            number = float(value)
            if math.isfinite(number) and not name.endswith("_bucket"):
                series.setdefault(name + labels, []).append(number)
    summaries = {}
    for key, values in sorted(series.items()):
        name = key.partition("{")[0]
        kind = kinds.get(name, kinds.get(re.sub(r"_(sum|count)$", "", name), "gauge"))
        summary = gauge(values, unit=_unit(name)) if kind == "gauge" else counter(values)
        if summary.min or summary.max:
            summaries[key] = summary
    return summaries


def _unit(name: str) -> str:
    return next((unit for ending, unit in _UNITS if name.endswith(ending)), "count")
