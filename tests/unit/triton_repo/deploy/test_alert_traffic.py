"""Alerts and recordings on shapes of traffic: what has to wake someone does, what has not does not.

promtool judges; the series are shaped as Triton counts an ensemble, whose postprocessing runs for each token.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tpforge.yaml_text import to_yaml
from triton_repo.monitoring.rules import rules_yaml

pytestmark = pytest.mark.manifests
ONE = 'instance="a:8002",job="triton",engine="e"'
TWO = 'instance="b:8002",job="triton",engine="e"'
TRTLLM = 'instance="a:8000",job="trtllm-serve",engine="e"'
STRANGER = 'instance="c:8002",job="vision-triton"'


def series(name: str, labels: str, values: str) -> dict[str, str]:
    return {"series": f"{name}{{{labels}}}", "values": values}


def answered(*, a_minute: int) -> list[dict[str, str]]:
    """An ensemble of 60 streamed tokens a request."""
    counts = {"ensemble": 1, "preprocessing": 1, "tensorrt_llm": 1, "postprocessing": 60}
    return [
        series("nv_inference_request_success", f'{ONE},model="{model}"', f"0+{count * a_minute}x60")
        for model, count in counts.items()
    ]


def failed(reason: str, *, a_minute: int) -> list[dict[str, str]]:
    labels = f'{ONE},model="ensemble",reason="{reason}"'
    return [series("nv_inference_request_failure", labels, f"0+{a_minute}x60")]


def held(kind: str, values: str) -> list[dict[str, str]]:
    """Requests of a generator, as TensorRT-LLM's backend and the reference runtime report them."""
    return [series("nv_trt_llm_request_metrics", f'{ONE},request_type="{kind}"', values)]


def a_night_and_a_morning() -> list[dict[str, str]]:
    """Seven hours of nine canaries a minute, of 20 ms and a token; then 60 requests a minute, of 3 s."""
    night, morning = 420, 60
    counts = {
        "nv_inference_request_success": (9, 60),
        "nv_inference_request_duration_us": (9 * 20_000, 60 * 3_000_000),
        "nv_llm_output_token_len_sum": (9, 60 * 60),
    }
    found = [
        series(name, f'{ONE},model="ensemble"', f"0+{few}x{night} {few * night + many}+{many}x{morning}")
        for name, (few, many) in counts.items()
    ]
    return [*found, *held("active", f"0x{night} 3x{morning}")]


def queued(model: str, *, us_a_minute: int) -> list[dict[str, str]]:
    return [series("nv_inference_queue_duration_us", f'{ONE},model="{model}"', f"0+{us_a_minute}x60")]


def served(*, a_minute: str, reason: str = "stop") -> list[dict[str, str]]:
    """Requests that trtllm-serve ended; our probes are nine a minute of them."""
    labels = f'{TRTLLM},finished_reason="{reason}"'
    return [series("trtllm_request_success_total", labels, a_minute)]


def timed(histogram: str, *, seconds: int, a_minute: int = 60) -> list[dict[str, str]]:
    """A histogram of trtllm-serve whose mean is so long."""
    return [
        series(f"trtllm_{histogram}_sum", TRTLLM, f"0+{seconds * a_minute}x60"),
        series(f"trtllm_{histogram}_count", TRTLLM, f"0+{a_minute}x60"),
    ]


FIRES = {
    "30 s in the queue of the generator": (
        "TpforgeQueueGrows",
        [
            *answered(a_minute=10),
            *queued("tensorrt_llm", us_a_minute=300_000_000),
            *queued("postprocessing", us_a_minute=60_000),
        ],
    ),
    "one request in five fails": (
        "TpforgeRequestsFail",
        [*answered(a_minute=80), *failed("OTHER", a_minute=20)],
    ),
    "one in five fails in a model of the LLM API, which Triton calls a success": (
        "TpforgeRequestsFail",
        [
            series("nv_inference_request_success", f'{ONE},model="tensorrt_llm"', "0+100x60"),
            series("tpforge_requests_failed", f'{ONE},model="tensorrt_llm"', "0+20x60"),
        ],
    ),
    "failures beside a client's bad requests": (
        "TpforgeRequestsFail",
        [
            *answered(a_minute=80),
            *failed("OTHER", a_minute=90),
            series("tpforge_requests_refused", f'{ONE},model="preprocessing"', "0+40x60"),
        ],
    ),
    "requests wait in the LLM API": (
        "TpforgeQueueGrows",
        [*answered(a_minute=10), *held("waiting", "40x60")],
    ),
    "requests wait before a model of the LLM API that streams nothing": (
        "TpforgeQueueGrows",
        [
            *held("waiting", "0x60"),
            series("nv_inference_pending_request_count", f'{ONE},model="tensorrt_llm"', "40x60"),
        ],
    ),
    "the cache of trtllm-serve is full and requests wait": (
        "TpforgeKvCacheFull",
        [
            series("trtllm_kv_cache_utilization", ONE, "0.99x60"),
            series("trtllm_num_requests_waiting", ONE, "3x60"),
        ],
    ),
    "all requests fail": (
        "TpforgeRequestsFail",
        [*answered(a_minute=0), *failed("OTHER", a_minute=20)],
    ),
}
FIRES |= {
    "a crash loop": ("TpforgeServerRestarts", [series("up", ONE, "1x5 0x2 1x1 0x2 1x1 0x2 1x1 0x2 1x40")]),
    "a crash loop in which it never comes up again": ("TpforgeServerDown", [series("up", ONE, "1x5 0x55")]),
    "a stuck model, whose tokenizer goes on": (
        "TpforgeModelStuck",
        [
            *held("active", "0x3 2x57"),
            series("nv_inference_request_success", f'{ONE},model="ensemble"', "50x60"),
            series("nv_inference_request_success", f'{ONE},model="preprocessing"', "0+1x60"),
        ],
    ),
    "a stuck model behind which Triton queues": (
        "TpforgeModelStuck",
        [
            series("nv_inference_pending_request_count", f'{ONE},model="tensorrt_llm"', "0x3 4x57"),
            series("nv_inference_request_success", f'{ONE},model="tensorrt_llm"', "50x60"),
        ],
    ),
}
FIRES |= {
    "requests wait 30 s in trtllm-serve": (
        "TpforgeQueueGrows",
        [*served(a_minute="0+60x60"), *timed("request_queue_time_seconds", seconds=30)],
    ),
    "one in five fails in trtllm-serve": (
        "TpforgeRequestsFail",
        [
            *served(a_minute="0+80x60"),
            series("trtllm_request_error_total", f'{TRTLLM},http_code="500"', "0+20x60"),
        ],
    ),
    "trtllm-serve stands still, and says what it ran last": (
        "TpforgeModelStuck",
        [
            *served(a_minute="0+9x3 27x57"),
            series("trtllm_num_requests_running", TRTLLM, "2x60"),
            series("trtllm_iteration_latency_seconds", TRTLLM, "0.02x60"),
        ],
    ),
    "trtllm-serve stands still, and clients give up": (
        "TpforgeModelStuck",
        [
            *served(a_minute="0+9x3 27x57"),
            *served(a_minute="0+6x60", reason="cancelled"),
            series("trtllm_num_requests_running", TRTLLM, "2x60"),
        ],
    ),
    "a crash loop of trtllm-serve": (
        "TpforgeServerRestarts",
        [series("up", TRTLLM, "1x5 0x2 1x1 0x2 1x1 0x2 1x1 0x2 1x40")],
    ),
    "no trtllm-serve answers": ("TpforgeServerDown", [series("up", TRTLLM, "1x5 0x55")]),
}
SILENT = {
    "trtllm-serve is asked by our probes alone, and says what it ran last": (
        "TpforgeModelStuck",
        [*served(a_minute="0+9x60"), series("trtllm_num_requests_running", TRTLLM, "1x60")],
    ),
    "trtllm-serve makes one long answer, before which our probes wait": (
        "TpforgeModelStuck",
        [
            *served(a_minute="27x60"),
            series("trtllm_num_requests_running", TRTLLM, "1x60"),
            series("trtllm_iteration_latency_seconds", TRTLLM, "0.02+0.0001x60"),
        ],
    ),
    "clients of trtllm-serve ask what it refuses": (
        "TpforgeRequestsFail",
        [
            *served(a_minute="0+80x60"),
            series("trtllm_request_error_total", f'{TRTLLM},http_code="400"', "0+40x60"),
        ],
    ),
    "one long stream": (
        "TpforgeModelStuck",
        [
            *held("active", "1x60"),
            series("nv_inference_request_success", f'{ONE},model="ensemble"', "50x60"),
            series("nv_inference_request_success", f'{ONE},model="postprocessing"', "0+1500x60"),
        ],
    ),
    "nobody asks": (
        "TpforgeModelStuck",
        [*held("active", "0x60"), series("nv_inference_request_success", f'{ONE},model="ensemble"', "50x60")],
    ),
    "clients cancel a third": (
        "TpforgeRequestsFail",
        [*answered(a_minute=80), *failed("CANCELED", a_minute=40), *failed("OTHER", a_minute=0)],
    ),
    "a client's bad requests, which our models refuse": (
        "TpforgeRequestsFail",
        [
            *answered(a_minute=80),
            *failed("OTHER", a_minute=80),
            series("tpforge_requests_failed", f'{ONE},model="tensorrt_llm"', "0x60"),
            series("tpforge_requests_refused", f'{ONE},model="preprocessing"', "0+30x60"),
            series("tpforge_requests_refused", f'{ONE},model="tensorrt_llm"', "0+10x60"),
        ],
    ),
    "a long answer that nobody streams": (
        "TpforgeModelStuck",
        [
            *held("active", "1x60"),
            series("tpforge_model_progress", f'{ONE},model="tensorrt_llm"', "0+900x60"),
            series("nv_inference_request_success", f'{ONE},model="tensorrt_llm"', "50x60"),
        ],
    ),
    "a rollout: one starts while the other answers": (
        "TpforgeServerDown",
        [series("up", ONE, "1x60"), series("up", TWO, "0x40 1x20")],
    ),
    "a stranger's server is down": ("TpforgeServerDown", [series("up", STRANGER, "1x5 0x55")]),
    "GPUs of the machine that hold no rank": (
        "TpforgeUnevenGpus",
        [
            series(f"nv_gpu_{name}", f'{ONE},gpu_uuid="{gpu}"', f"{value}x60")
            for gpu, used, busy in (("a", 70, 0.9), ("b", 70, 0.85), ("idle", 1, 0))
            for name, value in (
                ("utilization", busy),
                ("memory_used_bytes", used),
                ("memory_total_bytes", 80),
            )
        ],
    ),
    "a rollout is no restart": (
        "TpforgeServerRestarts",
        [series("up", ONE, "1x10 0x20 1x30"), series("up", TWO, "0x20 1x40")],
    ),
}


def firing(
    alert: str,
    given: list[dict[str, str]],
    *,
    times: int,
    folder: Path,
    minutes: tuple[int, ...] = (20, 25, 30, 35),
) -> str:
    """What promtool says when so many series of the alert are expected to fire at these minutes."""
    looked = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) or vector(0)'
    return judged(given, looked, [{"labels": "{}", "value": times}], folder=folder, minutes=minutes)


def judged(
    given: list[dict[str, str]],
    expression: str,
    expected: list[dict[str, Any]],
    *,
    folder: Path,
    minutes: tuple[int, ...],
) -> str:
    """What promtool says against these samples at these minutes; nothing where they are so."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    test: dict[str, Any] = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": given,
                "promql_expr_test": [
                    {"expr": expression, "eval_time": f"{minute}m", "exp_samples": expected}
                    for minute in minutes
                ],
            }
        ],
    }
    (folder / "rules.yml").write_text(rules_yaml())
    (folder / "test.yml").write_text(to_yaml(test))
    done = subprocess.run(
        ["promtool", "test", "rules", "test.yml"], cwd=folder, capture_output=True, text=True, check=False
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.parametrize("case", FIRES)
def test_an_alert_fires_on_what_users_feel(case: str, tmp_path: Path) -> None:
    alert, given = FIRES[case]
    assert firing(alert, given, times=1, folder=tmp_path) == ""


@pytest.mark.parametrize("case", SILENT)
def test_an_alert_sleeps_through_what_is_no_failure(case: str, tmp_path: Path) -> None:
    alert, given = SILENT[case]
    assert firing(alert, given, times=0, folder=tmp_path) == ""


@pytest.mark.parametrize("alert", ["TpforgeLatencySpikes", "TpforgeGenerationSlow"])
def test_a_morning_after_a_night_of_canaries_is_no_spike(alert: str, tmp_path: Path) -> None:
    minutes = tuple(range(410, 480, 5))
    assert firing(alert, a_night_and_a_morning(), times=0, folder=tmp_path, minutes=minutes) == ""


@pytest.mark.parametrize("alert", ["TpforgeQueueGrows", "TpforgeModelStuck"])
def test_an_alert_keeps_the_namespace_and_the_pod_that_it_is_about(alert: str, tmp_path: Path) -> None:
    where = 'namespace="llm",pod="e-0",' + ONE
    given = [
        series("nv_trt_llm_request_metrics", f'{where},request_type="waiting"', "40x60"),
        series("nv_inference_request_success", f'{where},model="ensemble"', "50x60"),
    ]
    expression = f'count by (namespace, pod) (ALERTS{{alertname="{alert}",alertstate="firing"}})'
    expected = [{"labels": '{namespace="llm",pod="e-0"}', "value": 1}]
    assert judged(given, expression, expected, folder=tmp_path, minutes=(20,)) == ""
