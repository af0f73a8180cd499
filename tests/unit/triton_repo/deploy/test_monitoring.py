"""Rules and dashboard: promtool accepts them, alerts fire on made series, each failure mode has one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.deployments import deployment_of
from tpforge.yaml_text import to_yaml
from triton_repo.deploy.targets import target_files
from triton_repo.monitoring.dashboard import dashboard_json
from triton_repo.monitoring.queries import QUERIES, metric_names
from triton_repo.monitoring.rules import ALERTS, RECORDS, rules_yaml

LABELS = '{instance="i",job="triton",engine="e"'


def promtool(*arguments: str, folder: Path) -> str:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    done = subprocess.run(["promtool", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.manifests
def test_promtool_accepts_the_rules(tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(rules_yaml())
    assert f"SUCCESS: {len(ALERTS) + len(RECORDS)} rules found" in promtool(
        "check", "rules", "rules.yml", folder=tmp_path
    )


def test_every_known_failure_mode_has_an_alert_that_says_what_to_do() -> None:
    assert {alert.mode for alert in ALERTS} == {
        "out-of-memory",
        "slow-communication",
        "uneven-gpus",
        "does-not-load",
        "latency-spikes",
    }
    assert all(alert.do.endswith(".") for alert in ALERTS)


SERIES: dict[str, tuple[list[dict[str, str]], str]] = {
    # name of the alert: its series, a minute a value, and when to look
    "TpforgeUnevenGpus": (
        [
            {"series": f'nv_gpu_utilization{LABELS},gpu_uuid="a"}}', "values": "0.95x30"},
            {"series": f'nv_gpu_utilization{LABELS},gpu_uuid="b"}}', "values": "0.45x30"},
            *(
                {"series": f'nv_gpu_memory_{kind}_bytes{LABELS},gpu_uuid="{gpu}"}}', "values": f"{value}x30"}
                for kind, value in (("used", 60), ("total", 80))
                for gpu in "ab"
            ),
        ],
        "20m",
    ),
    "TpforgeMemoryNearlyFull": (
        [
            {"series": f'nv_gpu_memory_used_bytes{LABELS},gpu_uuid="a"}}', "values": "79x30"},
            {"series": f'nv_gpu_memory_total_bytes{LABELS},gpu_uuid="a"}}', "values": "80x30"},
        ],
        "10m",
    ),
    "TpforgeKvCacheFull": (
        [
            {
                "series": f'nv_trt_llm_kv_cache_block_metrics{LABELS},kv_cache_block_type="used"}}',
                "values": "98x30",
            },
            {
                "series": f'nv_trt_llm_kv_cache_block_metrics{LABELS},kv_cache_block_type="max"}}',
                "values": "100x30",
            },
            {"series": f'nv_trt_llm_request_metrics{LABELS},request_type="waiting"}}', "values": "3x30"},
        ],
        "10m",
    ),
    "TpforgeServerDown": ([{"series": f"up{LABELS}}}", "values": "1x10 0x30"}], "15m"),
    "TpforgeServerDoesNotStart": ([{"series": f"up{LABELS}}}", "values": "0x100"}], "95m"),
    # No request was served between two ends: the counters of such a server stay at 0.
    "TpforgeServerRestarts": ([{"series": f"up{LABELS}}}", "values": "1x5 0x5 1x5 0x5 1x5"}], "25m"),
    "TpforgeModelStuck": (
        [
            {"series": f'nv_trt_llm_request_metrics{LABELS},request_type="active"}}', "values": "2x30"},
            {"series": f'nv_inference_request_success{LABELS},model="ensemble"}}', "values": "7x30"},
        ],
        "20m",
    ),
    "TpforgeRequestsFail": (
        [
            {
                "series": f'nv_inference_request_failure{LABELS},model="ensemble",reason="BACKEND"}}',
                "values": "0+6x30",
            },
            {"series": f'nv_inference_request_success{LABELS},model="ensemble"}}', "values": "0+60x30"},
        ],
        "20m",
    ),
    "TpforgeQueueGrows": (
        [
            {"series": f'nv_inference_queue_duration_us{LABELS},model="m"}}', "values": "0+120000000x30"},
            {"series": f'nv_inference_request_success{LABELS},model="m"}}', "values": "0+60x30"},
        ],
        "15m",
    ),
    # An hour at 1000 ms per request, then at 5000.
    "TpforgeLatencySpikes": (
        [
            {
                "series": f'nv_inference_request_duration_us{LABELS},model="ensemble"}}',
                "values": "0+60000000x60 3600000000+300000000x30",
            },
            {"series": f'nv_inference_request_success{LABELS},model="ensemble"}}', "values": "0+60x90"},
        ],
        "85m",
    ),
    # Four running requests at 400 tokens/s, then at 100.
    "TpforgeGenerationSlow": (
        [
            {"series": f'nv_trt_llm_request_metrics{LABELS},request_type="active"}}', "values": "4x100"},
            {
                "series": f"nv_llm_output_token_len_sum{LABELS}}}",
                "values": "0+24000x60 1440000+6000x40",
            },
        ],
        "90m",
    ),
}


@pytest.mark.manifests
@pytest.mark.parametrize("alert", [alert.name for alert in ALERTS])
def test_an_alert_fires_on_what_it_is_for_and_not_before(alert: str, tmp_path: Path) -> None:
    series, moment = SERIES[alert]
    (tmp_path / "rules.yml").write_text(rules_yaml())
    fires = _firing(alert, series, moment, tmp_path)
    assert fires.returncode == 0, fires.stdout + fires.stderr
    early = _firing(alert, series, "0m", tmp_path)
    assert early.returncode != 0, "it fires at once"


def _firing(
    alert: str, series: list[dict[str, str]], moment: str, folder: Path
) -> subprocess.CompletedProcess[str]:
    """Ask promtool how many series of the alert fire at a moment: at least one is expected."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    test: dict[str, Any] = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": series,
                "promql_expr_test": [
                    {
                        "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) > bool 0',
                        "eval_time": moment,
                        "exp_samples": [{"labels": "{}", "value": 1}],
                    }
                ],
            }
        ],
    }
    (folder / "test.yml").write_text(to_yaml(test))
    return subprocess.run(
        ["promtool", "test", "rules", "test.yml"], cwd=folder, capture_output=True, text=True, check=False
    )


def test_the_dashboard_has_a_panel_a_query_and_says_what_an_empty_one_needs() -> None:
    value = json.loads(dashboard_json("it"))
    assert [panel["title"] for panel in value["panels"]] == [query.panel for query in QUERIES]
    assert len({panel["id"] for panel in value["panels"]}) == len(QUERIES)
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in value["panels"]]
    assert len(set(places)) == len(places)
    for panel, query in zip(value["panels"], QUERIES, strict=True):
        assert bool(panel["description"]) == (query.source != "any")


def test_two_engines_of_one_grafana_have_dashboards_of_their_own() -> None:
    first, second = (json.loads(dashboard_json(name)) for name in ("llama-70b-tp4", "llama-70b-tp8"))
    assert first["uid"] != second["uid"] and first["title"] != second["title"]
    assert len(first["uid"]) <= 40, "Grafana's limit"
    of_name, other = (json.loads(dashboard_json("llama", namespace=name)) for name in ("llm", "trial"))
    assert of_name["uid"] != other["uid"] and of_name["title"] != other["title"]


@pytest.mark.parametrize("target", ["kubernetes", "helm"])
def test_two_engines_of_one_cluster_neither_record_nor_wake_for_each_other(target: str) -> None:
    own = {"kubernetes": ("llm", "llama-3-3-70b-instruct-tp4")}
    namespace, engine = own.get(target, ("{{ .Release.Namespace }}", "{{ .Release.Name }}"))
    files = target_files(target, deployment_of("llama70b-tensorrt", target))
    (text,) = [text for path, text in files.items() if path.endswith("monitoring.yaml")]
    expressions = re.findall(r"^ +expr: (.*(?:\n {12,}.*)*)", text, flags=re.MULTILINE)
    assert len(expressions) == len(RECORDS) + len(ALERTS)
    for expression in expressions:
        one_line = " ".join(expression.split())
        metrics = re.split(r"\b(?:nv_\w+|trtllm_\w+|tpforge[_:][\w:]+|up)\b", one_line)[1:]
        assert metrics
        for after in metrics:
            assert after.startswith(f'{{namespace="{namespace}",engine="{engine}"'), one_line


@pytest.mark.parametrize("target", ["kubernetes", "helm"])
def test_dashboards_of_two_engines_are_two_files_of_grafanas_sidecar(target: str) -> None:
    files = target_files(target, deployment_of("llama70b-tensorrt", target))
    if target == "helm":
        assert "  tpforge-{{ .Release.Name }}.json: " in files["templates/config.yaml"]
    else:
        assert "overlays/production/tpforge-llama-3-3-70b-instruct-tp4.json" in files


@pytest.mark.parametrize(
    ("case", "metrics"),
    [
        ("smollm2-reference", ["tpforge_requests_waiting"]),
        ("llama70b-tensorrt", ["tpforge_requests_waiting", "tpforge_kv_used"]),
        ("llama70b-pytorch", ["tpforge_requests_waiting", "tpforge_kv_used"]),
    ],
)
def test_the_autoscaler_asks_for_what_the_runtime_has_and_the_adapter_makes(
    case: str, metrics: list[str]
) -> None:
    files = target_files("kubernetes", deployment_of(case, "kubernetes"))
    scaler = yaml.safe_load(files["overlays/production/autoscaling.yaml"])
    assert [one["pods"]["metric"]["name"] for one in scaler["spec"]["metrics"]] == metrics
    made = yaml.safe_load(files["prometheus-adapter.yaml"])["rules"]["custom"]
    assert set(metrics) <= {rule["name"]["as"] for rule in made}


def test_every_panel_is_of_the_engines_that_are_chosen() -> None:
    value = json.loads(dashboard_json("it"))
    assert [one["name"] for one in value["templating"]["list"]] == ["datasource", "namespace", "engine"]
    for panel in value["panels"]:
        (target,) = panel["targets"]
        assert target["datasource"]["uid"] == panel["datasource"]["uid"] == "${datasource}"
        selectors = re.findall(r"\b(?:nv_\w+|trtllm_\w+|up)\b(\{[^}]*\})?", target["expr"])
        assert selectors
        for selector in selectors:
            assert selector.startswith('{namespace=~"$namespace",engine=~"$engine"'), target["expr"]


@pytest.mark.manifests
def test_promql_of_every_panel_parses(tmp_path: Path) -> None:
    expressions = [panel["targets"][0]["expr"] for panel in json.loads(dashboard_json("it"))["panels"]]
    group = [{"record": f"panel:{index}", "expr": text} for index, text in enumerate(expressions)]
    value = {"groups": [{"name": "panels", "rules": group}]}
    (tmp_path / "panels.yml").write_text(yaml.safe_dump(value))
    assert f"SUCCESS: {len(QUERIES)} rules found" in promtool("check", "rules", "panels.yml", folder=tmp_path)


def test_metric_names_of_an_expression() -> None:
    assert metric_names('rate(nv_a_b{model="nv"}[1m]) / nv_c') == {"nv_a_b", "nv_c"}


@pytest.mark.parametrize("target", ["kubernetes", "helm"])
def test_a_prometheus_that_selects_by_labels_finds_monitor_and_rules(target: str) -> None:
    given = {"monitor_labels": (("release", "prometheus"),)}
    files = target_files(target, deployment_of("llama70b-tensorrt", target, **given))
    (text,) = [text for path, text in files.items() if path.endswith("monitoring.yaml")]
    assert text.count("    release: prometheus\n") == 2
    selected = text.partition("  selector:\n")[2].partition("  endpoints:\n")[0]
    assert selected and "release" not in selected, "services do not have the label"
