"""A run in the formats of others: one CSV of all metrics, and AIPerf's JSON, one file per level.

It computes nothing that run.json does not hold.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable
from typing import get_args

from tpforge import __version__
from tpforge.measure.runs.run import Level, Run
from tpforge.measure.runs.samples import MetricSummary, Statistic

CSV_NAME, AIPERF_NAME = "metrics.csv", "aiperf.json"
AIPERF_SCHEMA = "1.4"
"""The version of AIPerf's export whose field names are used. Source: AIPerf 0.13, JsonExportData"""

_STATISTICS = tuple(get_args(Statistic))


def export_texts(run: Run) -> dict[str, str]:
    """The files to write beside run.json, by name."""
    texts = {CSV_NAME: metrics_csv(run.levels)}
    for level in run.levels:
        slug = re.sub(r"[^\w.-]+", "-", level.name)
        name = AIPERF_NAME if len(run.levels) == 1 else AIPERF_NAME.replace(".", f"-{slug}.")
        texts[name] = aiperf_json(run, level)
    return texts


def metrics_csv(levels: Iterable[Level]) -> str:
    """A row for each metric of each level, with the interval of its mean where there are repeats."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["level", "metric", "unit", *_STATISTICS, "sum", "count", "low", "high", "repeats"])
    for level in levels:
        for metric in level.metrics.values():
            interval = metric.interval
            writer.writerow(
                [
                    level.name,
                    metric.name,
                    metric.unit,
                    *(getattr(metric, statistic) for statistic in _STATISTICS),
                    metric.sum,
                    metric.count,
                    interval.low if interval else None,
                    interval.high if interval else None,
                    len(level.repeats),
                ]
            )
    return file.getvalue()


def aiperf_json(run: Run, level: Level) -> str:
    """One level under AIPerf's field names; what only tpforge knows stands under ``tpforge``.

    The statistics are over all repeats together.
    """
    value: dict[str, object] = {"schema_version": AIPERF_SCHEMA}
    value |= {name: _aiperf_metric(metric) for name, metric in level.metrics.items()}
    value["was_cancelled"] = run.interrupted
    value["error_summary"] = [
        {"error_details": {"type": kind, "message": f"{kind}: see samples.jsonl"}, "count": count}
        for kind, count in level.errors.items()
    ]
    value["tpforge"] = {
        "version": __version__,
        "run": run.id,
        "level": level.name,
        "num_repeats": len(level.repeats),
        "command": list(run.command),
    }
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _aiperf_metric(metric: MetricSummary) -> dict[str, object]:
    fields = {"unit": metric.unit, **{name: getattr(metric, name) for name in _STATISTICS}}
    fields |= {"count": metric.count, "sum": metric.sum}
    # JSON has no infinity, which percentiles of failed requests are.
    return {name: value for name, value in fields.items() if not _is_missing(value)}


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isinf(value))
