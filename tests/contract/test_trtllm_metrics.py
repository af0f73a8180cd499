"""Every metric of trtllm-serve that is asked for is one that upstream's collector tells, by that name."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tpforge.yaml_text import to_yaml
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


def told_by_trtllm_serve() -> list[dict[str, str]]:
    """A series of every metric, as a server under load tells it, with the labels that our targets give."""
    where = 'namespace="llm",pod="e-0",instance="a:8000",job="trtllm-serve",engine="e"'
    own = ",".join(f'{name}="undefined"' for name in UPSTREAM["labels"])
    more = {"finished_reason": "length", "http_code": "500", "le": "+Inf"}
    found = [{"series": f"up{{{where}}}", "values": "1x20"}]
    for name, labels in LABELS.items():
        extra = "".join(f',{label}="{more[label]}"' for label in sorted(labels - set(UPSTREAM["labels"])))
        values = "0+60x20" if name.endswith(("_total", "_bucket", "_sum", "_count")) else "1+1x20"
        found.append({"series": f"{name}{{{where},{own}{extra}}}", "values": values})
    return found


@pytest.mark.manifests
def test_each_panel_shows_trtllm_serve_but_those_that_say_that_it_has_no_such_metric(tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    shown = {query.expression: query.source not in ("triton", "gpu") for query in QUERIES}
    shown |= {expression: name != "tpforge:gpu_imbalance" for name, expression in RECORDS.items()}
    # A record of records has nothing to read here.
    shown = {expression: told for expression, told in shown.items() if "tpforge:" not in expression}
    expected = [
        {
            "expr": f"count({expression}) > bool 0 or vector(0)",
            "eval_time": "15m",
            "exp_samples": [{"labels": "{}", "value": int(told)}],
        }
        for expression, told in shown.items()
    ]
    tests = [{"interval": "1m", "input_series": told_by_trtllm_serve(), "promql_expr_test": expected}]
    (tmp_path / "test.yml").write_text(to_yaml({"evaluation_interval": "1m", "tests": tests}))
    done = subprocess.run(
        ["promtool", "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
