"""A plan's estimates beside a run: only of the option that the run is, and at the load that was planned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scripts.main import main
from tests.support.runs import level_of, run_of
from tpforge.measure.comparison.expected import find_option, with_predictions
from tpforge.measure.runs.run import Run, write_run
from tpforge.plan.record import PlanRecord

TTFTS = ((0.10, 0.11), (0.12, 0.10), (0.11, 0.13))


@pytest.fixture(scope="module")
def plan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `tpforge plan` prints for a known model at 4 requests, 8 tokens in and 4 out, as the runs have."""
    import contextlib
    import io

    printed = io.StringIO()
    arguments = ["plan", "llama-3.1-8b", "--gpu", "h100-sxm", "--gpus", "2", "--isl", "8", "--osl", "4"]
    with contextlib.redirect_stdout(printed):
        assert main([*arguments, "--concurrency", "4", "--json"]) == 0
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    path.write_text(printed.getvalue())
    return path


def plan_of(path: Path) -> PlanRecord:
    value = json.loads(path.read_text())
    return PlanRecord.model_validate({k: v for k, v in value.items() if k not in ("schema_version", "kind")})


def run(name: str, *, tp: int = 2, gpu: str | None = "NVIDIA H100", **engine: Any) -> Run:
    levels = [level_of(TTFTS, concurrency=count)[0] for count in (1, 4)]
    facts = {"tp": tp, "pp": 1, "moe_ep": 1, "precision": "bfloat16", "quantization": "none", **engine}
    return run_of(name, levels, engine=facts, environment={"gpu": gpu} if gpu else {})


def test_estimates_stand_at_the_planned_load_only(plan_file: Path) -> None:
    plan = plan_of(plan_file)
    option = find_option(run("r"), plan)
    assert option is not None and option.speed is not None
    assert (option.tp, option.replicas, option.weights) == (2, 1, "bfloat16")
    found, note = with_predictions(run("r"), plan)
    assert note is None
    assert found.levels[0].predicted == {}
    predicted = found.levels[1].predicted
    assert predicted["output_token_throughput"].value == option.speed.tokens_per_second
    assert predicted["time_to_first_token"].value == option.speed.ttft_ms
    assert "h100" in predicted["time_to_first_token"].source.lower()


def test_a_quantized_run_is_the_option_of_its_format(plan_file: Path) -> None:
    plan = plan_of(plan_file)
    quantized = run("r", quantization={"format": "fp8", "group_size": 0})
    option = find_option(quantized, plan)
    assert option is not None and option.weights == "fp8"
    assert find_option(run("r", quantization={"format": "unheard-of"}), plan) is None


def test_what_the_plan_says_nothing_of_is_said(plan_file: Path) -> None:
    plan = plan_of(plan_file)
    for other, words in (
        (run("r", gpu=None), "had no GPU"),
        (run("r", tp=16), "no estimate for its tp"),
    ):
        found, note = with_predictions(other, plan)
        assert found == other
        assert note is not None and words in note
    longer = plan.model_copy(update={"input_tokens": 1000})
    assert "measured were 8 and 4" in str(with_predictions(run("r"), longer)[1])
    bare = run("r").model_copy(update={"levels": run("r").levels[:1]})
    assert "no level of 4 requests" in str(with_predictions(bare, plan)[1])


def test_compare_shows_them_in_a_column_of_their_own(
    plan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, tp in (("one", 1), ("two", 2)):
        write_run(tmp_path / name, run(name, tp=tp), [])
    arguments = ["compare", str(tmp_path / "one"), str(tmp_path / "two"), "--plan"]
    assert main([*arguments, str(plan_file), "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    (header,) = [line for line in out.splitlines() if line.startswith("run ") and "predicted" in line]
    assert header.split() == ["run", "level", "metric", "predicted", "by", "measured"]
    assert "tpforge plan" in (tmp_path / "out" / "comparison.html").read_text()
    (tmp_path / "bad.json").write_text("[]")
    assert main([*arguments, str(tmp_path / "bad.json")]) == 4
    assert "is not what tpforge plan --json prints" in capsys.readouterr().err


def printed(tmp_path: Path, capsys: pytest.CaptureFixture[str], *words: str) -> PlanRecord:
    assert (
        main(["plan", "llama-3.1-8b", "--gpu", "h100-sxm", "--isl", "8", "--osl", "4", *words, "--json"]) == 0
    )
    (tmp_path / "plan.json").write_text(capsys.readouterr().out, "utf-8")
    return plan_of(tmp_path / "plan.json")


@pytest.mark.parametrize(
    ("quantization", "weights", "kv"),
    [
        ("none", "bfloat16", "bfloat16"),
        ("weights as they are, KV cache fp8", "bfloat16", "fp8"),
        ("fp8", "fp8", "bfloat16"),
        ("fp8, KV cache fp8", "fp8", "fp8"),
        ("int4_awq, groups of 128", "int4_awq", "bfloat16"),
        ("int4_awq, groups of 128, KV cache fp8", "int4_awq", "fp8"),
    ],
)
def test_the_option_has_the_weights_and_the_cache_that_the_engine_records(
    plan_file: Path, quantization: str, weights: str, kv: str
) -> None:
    option = find_option(run("r", quantization=quantization), plan_of(plan_file))
    assert option is not None
    assert (option.weights, option.kv_cache) == (weights, kv)


def test_a_run_of_one_replica_is_held_to_the_estimate_of_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = printed(tmp_path, capsys, "--gpus", "2", "--concurrency", "8", "--tp", "1")
    alone = printed(tmp_path, capsys, "--gpus", "1", "--concurrency", "4", "--tp", "1")
    found, note = with_predictions(run("r", tp=1), plan)
    single, _ = with_predictions(run("r", tp=1), alone)
    assert note is None
    assert found.levels[0].predicted == {}
    for name, prediction in single.levels[1].predicted.items():
        other = found.levels[1].predicted[name]
        assert (other.value, other.low, other.high) == pytest.approx(
            (prediction.value, prediction.low, prediction.high), rel=1e-3
        )
        assert prediction.low is not None and prediction.high is not None
        assert prediction.low < prediction.value < prediction.high


def test_a_run_on_another_kind_of_gpu_is_not_compared(plan_file: Path) -> None:
    other = run("r", gpu="NVIDIA L40S")
    found, note = with_predictions(other, plan_of(plan_file))
    assert found == other
    assert note == "r: the plan is for h100-sxm, and this run was on l40s"
    assert with_predictions(run("r", gpu="NVIDIA H100 80GB HBM3"), plan_of(plan_file))[1] is None
