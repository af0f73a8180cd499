"""The Grafana dashboard, made from the table of queries; equal tables give equal JSON.

Panels that a server has no metrics for stay empty and say in their description what they need.
"""

from __future__ import annotations

import json
from typing import Any

from triton_repo.monitoring.queries import QUERIES, Query

SCHEMA_VERSION = 39
"""Of Grafana 11's dashboard JSON."""
_UNITS = {"tokens/s": "suffix: tok/s"}
_NEEDS = {
    "any": "",
    "tensorrt": "Needs TensorRT-LLM's backend: the reference runtime has no such metric.",
    "gpu": "Needs GPUs.",
    "histograms": "Needs Triton 24.12 or later with --metrics-config=histogram_latencies=true.",
}
_DATASOURCE = {"type": "prometheus", "uid": "prometheus"}
_WIDTH, _HEIGHT, _COLUMNS = 8, 7, 3


def dashboard() -> dict[str, Any]:
    """The dashboard as a value."""
    return {
        "uid": "tpforge",
        "title": "tpforge: Triton and TensorRT-LLM",
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": False,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "tags": ["tpforge"],
        "panels": [_panel(index, query) for index, query in enumerate(QUERIES)],
    }


def dashboard_json() -> str:
    """The dashboard as text."""
    return json.dumps(dashboard(), indent=2) + "\n"


def _panel(index: int, query: Query) -> dict[str, Any]:
    return {
        "id": index + 1,
        "type": "timeseries",
        "title": query.panel,
        "description": _NEEDS[query.source],
        "datasource": _DATASOURCE,
        "gridPos": {
            "x": index % _COLUMNS * _WIDTH,
            "y": index // _COLUMNS * _HEIGHT,
            "w": _WIDTH,
            "h": _HEIGHT,
        },
        "fieldConfig": {"defaults": {"unit": _UNITS.get(query.unit, query.unit), "min": 0}, "overrides": []},
        "targets": [
            {"refId": "A", "datasource": _DATASOURCE, "expr": query.expression, "legendFormat": query.legend}
        ],
    }
