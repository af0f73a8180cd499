"""Real lines of logs and real numbers: each failure is found as what it is, and health stays silent."""

from __future__ import annotations

import tomllib
from functools import partial
from pathlib import Path

import pytest

from tests.support.runs import GIB, level_of, run_of
from tests.unit.tpforge.measure.test_diagnosis import gpu, modes, run_with
from tpforge.measure.failures import symptoms
from tpforge.measure.failures.diagnosis import diagnose_log, summarize
from tpforge.measure.failures.symptoms import diagnose_metrics
from triton_repo.client.metrics import parse_metrics, read_series

LOGS = tomllib.loads((Path(__file__).parents[3] / "support" / "failure_logs.toml").read_text("utf-8"))
diagnose_run = partial(symptoms.diagnose_run, read_series=read_series)
metric_samples = partial(parse_metrics, source="s")


def found_in(line: str) -> list[str]:
    return [item.mode for item in diagnose_log([line], name="x") if item.strength != "fact"]


@pytest.mark.parametrize("row", LOGS["failure"], ids=lambda row: row["line"][:50])
def test_a_line_of_a_failed_server_is_taken_for_what_it_is(row: dict[str, str]) -> None:
    assert row["source"]
    assert found_in(row["line"]) == [row["mode"]]


@pytest.mark.parametrize("row", LOGS["healthy"], ids=lambda row: row["line"][:50])
def test_a_line_of_a_healthy_server_is_taken_for_nothing(row: dict[str, str]) -> None:
    assert row["source"]
    assert found_in(row["line"]) == []


@pytest.mark.parametrize(
    "line",
    [
        "E0425 10:43:31.433756 841 server.cc:12] something nobody has seen",
        "[TensorRT-LLM][ERROR] Assertion failed: mTokens >= 0 (/src/x.cpp:31)",
        "[TRT-LLM] [E] unheard of",
        "FATAL: the sky fell",
        "KeyError: 'lm_head.weight'",
        "terminate called after throwing an instance of 'std::logic_error'",
    ],
)
def test_an_unknown_error_is_shown_and_no_mode_stands_as_no_sign(line: str) -> None:
    findings = diagnose_log(["all is well", line], name="x")
    found = summarize(findings, looked_at=["log x"], kinds=["log"])
    assert [item.evidence for item in found.findings] == [(f"x:2: {line}",)]
    assert found.modes["unrecognized"] == "suspected"
    assert found.modes["out_of_memory"] == "no sign in what is recognized"
    assert "no sign" not in found.modes.values()


def test_one_waiting_request_and_a_gpu_that_is_full_by_design_are_no_failure() -> None:
    text = (
        'nv_trt_llm_request_metrics{request_type="waiting",model="m"} 1\n'
        'nv_gpu_memory_used_bytes{gpu_uuid="a"} 78e9\nnv_gpu_memory_total_bytes{gpu_uuid="a"} 80e9\n'
        'vllm:num_preemptions_total{engine="0"} 0\n'
        'nv_inference_request_failure{model="m",reason="OTHER"} 0\n'
        'nv_inference_request_failure{model="m",reason="CANCELED"} 40\n'
        'nv_inference_request_success{model="m"} 60\n'
    )
    found = diagnose_metrics(metric_samples(text), name="s")
    assert [(item.mode, item.strength) for item in found] == [("out_of_memory", "fact")]


def test_gpus_of_different_models_may_differ() -> None:
    gpus = 'nv_gpu_utilization{gpu_uuid="a"} 0.95\nnv_gpu_utilization{gpu_uuid="b"} 0.4\n'
    one = "".join(
        f'nv_inference_count{{model="{name}"}} 9\n' for name in ("preprocessing", "tensorrt_llm", "ensemble")
    )
    two = 'nv_inference_count{model="llama"} 9\nnv_inference_count{model="reranker"} 9\n'
    assert modes(diagnose_metrics(metric_samples(gpus + one), name="s")) == ["uneven_gpus"]
    assert diagnose_metrics(metric_samples(gpus + two), name="s") == []


@pytest.mark.parametrize("engine", [{"tp": 1}, {"tp": 2, "pp": 2}])
def test_gpus_that_are_not_ranks_of_one_layer_may_differ(engine: dict[str, int]) -> None:
    uneven = [gpu(0, 90, 30 * GIB), gpu(1, 40, 20 * GIB)]
    assert diagnose_run(run_with(uneven, engine=engine), []) == []


def test_vllms_full_cache_preemptions_and_queue_are_found() -> None:
    text = "vllm:kv_cache_usage_perc 0.999\nvllm:num_requests_waiting 210\nvllm:num_preemptions_total 17\n"
    found = diagnose_metrics(metric_samples(text), name="s")
    assert modes(found) == ["latency_spikes"] * 3
    assert "210 requests wait" in found[2].cause


def test_failed_requests_are_found_in_metrics_and_in_a_run() -> None:
    text = (
        'nv_inference_request_failure{model="m",reason="OTHER"} 512\n'
        'nv_inference_request_success{model="m"} 40000\n'
    )
    (found,) = diagnose_metrics(metric_samples(text), name="s")
    assert (found.mode, found.strength, found.count) == ("failed_requests", "proof", 512)
    level, samples = level_of([[0.1] * 200, [0.1] * 200], num_failed=199)
    found, *_ = [item for item in diagnose_run(run_of("r", [level]), samples) if item.mode != "unrecognized"]
    assert (found.mode, found.strength) == ("failed_requests", "proof")
    assert "398 of 400 requests failed" in found.cause
    assert found.evidence == ("r, concurrency 1: 398 refused",)
    calm, _ = level_of([[0.1] * 200, [0.1] * 200], num_failed=1)
    assert diagnose_run(run_of("r", [calm]), []) == []
