"""The Grafana dashboard, made from the table of queries; equal tables give equal JSON.

Panels that a server has no metrics for stay empty and say in their description what they need.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from triton_repo.monitoring.queries import QUERIES, UP, Query, selected

SCHEMA_VERSION = 39
"""Of Grafana 11's dashboard JSON."""
_UNITS = {"tokens/s": "suffix: tok/s"}
_NEEDS = {
    "any": "",
    "trtllm": "Needs TensorRT-LLM, compiled or by the LLM API: the reference runtime has no such metric.",
    "triton": "Of Triton: trtllm-serve has no queue before its own.",
    "gpu": "Needs GPUs, and Triton: trtllm-serve says nothing of them, NVIDIA's dcgm-exporter does.",
    "histograms": "Needs trtllm-serve, or Triton 24.12 with --metrics-config=histogram_latencies=true.",
}
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_ALL = {"text": "All", "value": "$__all"}
_CHOSEN = 'namespace=~"$namespace",engine=~"$engine"'
_WIDTH, _HEIGHT, _COLUMNS = 8, 7, 3


def dashboard(engine: str, *, namespace: str = "") -> dict[str, Any]:
    """The dashboard of an engine as a value; engines of one Grafana do not take each other's place."""
    return {
        "uid": uid(engine, namespace=namespace),
        "title": f"tpforge: {engine}" + (f" ({namespace})" if namespace else ""),
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": False,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "tags": ["tpforge"],
        "templating": {"list": _variables(engine)},
        "panels": [_panel(index, query) for index, query in enumerate(QUERIES)],
    }


def uid(engine: str, *, namespace: str = "") -> str:
    """What tells dashboards of one Grafana apart, in at most 40 characters."""
    return f"tpforge-{hashlib.sha256(f'{namespace}/{engine}'.encode()).hexdigest()[:12]}"


def dashboard_json(engine: str, *, namespace: str = "") -> str:
    """The dashboard as text."""
    return json.dumps(dashboard(engine, namespace=namespace), indent=2) + "\n"


def _variables(engine: str) -> list[dict[str, Any]]:
    """Data source, namespace (none outside Kubernetes) and engine; at first all namespaces, this engine."""
    found: list[dict[str, Any]] = [
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    ]
    for name, within in (("namespace", ""), ("engine", ',namespace=~"$namespace"')):
        query = f"label_values({UP.removesuffix('}')}{within}}}, {name})"
        found.append(
            {
                "name": name,
                "label": name.capitalize(),
                "type": "query",
                "datasource": _DATASOURCE,
                "definition": query,
                "query": {"query": query, "refId": name},
                "refresh": 2,
                "sort": 1,
                "multi": True,
                "includeAll": True,
                "allValue": ".*",
                "current": {"text": [engine], "value": [engine]} if name == "engine" else _ALL,
            }
        )
    return found


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
            {
                "refId": "A",
                "datasource": _DATASOURCE,
                "expr": selected(query.expression, _CHOSEN),
                "legendFormat": query.legend,
            }
        ],
    }
