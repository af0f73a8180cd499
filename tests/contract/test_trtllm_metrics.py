"""Every metric of trtllm-serve that is asked for is one that upstream's collector tells, by that name."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from triton_repo.deploy.kubernetes.watching import ADAPTER
from triton_repo.monitoring.queries import QUERIES
from triton_repo.monitoring.rules import ALERTS, RECORDS

UPSTREAM = json.loads((Path(__file__).parent / "upstream" / "trtllm_metrics.json").read_text())
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
LABELS = {
    f"{name}{suffix}": {*UPSTREAM["labels"], *more, *(["le"] if suffix == "_bucket" else [])}
    for metrics in UPSTREAM["with"].values()
    for name, (kind, *more) in metrics.items()
    for suffix in SUFFIXES[kind]
}
ASKED = {
    **{query.panel: query.expression for query in QUERIES},
    **{alert.name: alert.expression for alert in ALERTS},
    **RECORDS,
    **{rule["name"]["as"]: rule["metricsQuery"] for rule in ADAPTER["rules"]["custom"]},
}


@pytest.mark.parametrize("asked", ASKED)
def test_what_is_asked_of_trtllm_serve_is_told_by_it(asked: str) -> None:
    for name, selector in re.findall(r"\b(trtllm_\w+)(\{[^}]*\})?", ASKED[asked]):
        assert name in LABELS, f"{name}: upstream's collector has no such metric"
        wanted = set(re.findall(r"(\w+)[=!]", selector))
        assert wanted <= LABELS[name], f"{name}: has no labels {sorted(wanted - LABELS[name])}"


def test_what_people_are_woken_by_is_asked_of_trtllm_serve_too() -> None:
    """Memory and imbalance of GPUs, which it does not tell, are left to what watches GPUs."""
    both = re.compile(r"\btrtllm_\w+|\btpforge:\w+|\bup\{")
    without = {alert.name for alert in ALERTS if not both.search(alert.expression)}
    assert without == {"TpforgeMemoryNearlyFull"}
    assert "trtllm" not in RECORDS["tpforge:gpu_imbalance"]
