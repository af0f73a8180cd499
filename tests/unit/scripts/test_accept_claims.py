"""What is claimed of hosts of several kinds, and what an answer must show."""

from __future__ import annotations

import json
from typing import Any

import pytest

from scripts.flows.accepting import seen
from scripts.flows.accepting.claims import Asked, claims, sizes_of
from scripts.flows.accepting.records import BESIDE, Claim
from scripts.main import main
from tests.support.runs import level_of, run_of


def host(num_gpus: int, runtime: str, **auto: Any) -> dict[str, Any]:
    gpus = [{"name": "NVIDIA H200", "sm": 90}] * num_gpus
    chosen = {"runtime": runtime, "because": "it has them", "trtllm": None, "container": "none", **auto}
    return {"auto": chosen, "host": {"gpus": gpus, "packages": []}, "findings": []}


def claims_of(found: dict[str, Any], sizes: tuple[int, ...] = (1, 2)) -> dict[str, Claim]:
    return {claim.name: claim for claim in claims(Asked("demo", sizes, found, port=9000))}


@pytest.mark.parametrize(
    ("num_gpus", "runtime", "sizes"),
    [
        (0, "reference", (1, 2)),
        (1, "reference", (1, 2)),
        (1, "tensorrt", (1,)),
        (3, "pytorch", (1, 2)),
        (8, "tensorrt", (1, 2, 4, 8)),
        (8, "reference", (1, 2, 4, 8)),
    ],
)
def test_every_size_is_tried_that_the_gpus_allow(num_gpus: int, runtime: str, sizes: tuple[int, ...]) -> None:
    assert sizes_of(host(num_gpus, runtime)) == sizes


def test_a_host_with_tensorrt_llm_is_tried_by_trtllm_serve_under_its_own_model_name() -> None:
    for trtllm, model in (("1.4.0rc1", "accept-tp2"), ("1.2.1", "model")):
        found = claims_of(host(2, "pytorch", trtllm=trtllm))
        assert found["serve"].words[:4] == ("serve", "accept-tp2", "--server", "trtllm-serve")
        assert found["smoke"].words == ("smoke", "--api", "openai", "--json")
        words = found["bench"].words
        assert words[words.index("--model") + 1] == model
        assert "verify tp=2" not in found
        assert ("gRPC serve" in found) == (trtllm == "1.4.0rc1")
    found = claims_of(host(2, "pytorch", trtllm="1.4.0rc1"))
    assert found["gRPC serve"].words[:4] == ("serve", "accept-tp2", "--server", "trtllm-grpc")
    assert found["gRPC smoke"].words == ("smoke", "--api", "trtllm-grpc", "--json")
    order = list(found)
    assert order.index("stop") < order.index("gRPC serve") < order.index("reference serve")


def test_beside_tensorrt_llm_the_reference_runtime_is_proven_and_served_over_nccl() -> None:
    found = claims_of(host(2, "tensorrt", trtllm="1.2.1"))
    build = found["build reference tp=2"].words
    assert build[:5] == ("build", "demo", "--tp", "2", "--name")
    assert build[build.index("--runtime") + 1] == "reference"
    assert found["reference render"].words[:4] == (
        "render",
        "accept-reference-tp2",
        "--executor",
        "processes",
    )
    assert "over NCCL" in found["reference serve"].claimed
    assert found["reference serve"].after == ("build reference tp=2", "reference render")
    order = list(found)
    assert order.index("stop") < order.index("reference serve") < order.index("reference stop")
    assert order[-1] == "nothing left"


def test_with_fewer_gpus_than_ranks_nccl_is_not_claimed() -> None:
    found = claims_of(host(1, "reference"))
    assert "render" not in found and "NCCL" not in found["serve"].claimed
    assert "on CUDA" in found["verify tp=2"].claimed


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (host(1, "tensorrt", trtllm="1.2.1", container="docker"),
         ("--container", "docker", "--trtllm", "1.2.1")),
        ({**host(1, "pytorch", trtllm="1.4.0rc1"),
          "host": {"gpus": [{}], "packages": [["tensorrt_llm", "1.4.0rc1"]]}}, ()),
    ],
)  # fmt: skip
def test_tensorrt_llm_is_asked_where_it_is(found: dict[str, Any], words: tuple[str, ...]) -> None:
    learn = claims_of(found, (1,))["learn"]
    assert learn.words == ("versions", "--learn", *words, "--json")
    assert learn.lacks is None


def test_a_proof_that_was_to_be_on_cuda_and_was_not_does_not_hold() -> None:
    parity = {"passed": True, "num_tensors": 1, "num_unequal_tensors": 0}
    value = {"parity": {**parity, "num_greedy_equal": 1, "num_greedy_tokens": 1}, "computed_on": "cpu"}
    with pytest.raises(AssertionError, match="computed on cpu, expected CUDA"):
        seen.verified(value, on_cuda=True)
    assert seen.verified({**value, "computed_on": "cuda, NVIDIA H200"}, on_cuda=True).endswith(
        "on cuda, NVIDIA H200"
    )


@pytest.mark.parametrize(
    ("low", "high", "holds"), [(0.5, 2.0, True), (1.0, 1.0, True), (1.1, 2.0, False), (0.1, 0.9, False)]
)
def test_a_rate_holds_within_the_band_of_the_plan_of_its_load_alone(
    low: float, high: float, holds: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    level = level_of(((0.10, 0.11), (0.12, 0.10)), concurrency=4)[0]
    rate = level.metrics["output_token_throughput"].avg
    facts = {"tp": 2, "pp": 1, "moe_ep": 1, "precision": "bfloat16", "quantization": "none"}
    run = run_of("r", [level], engine=facts, environment={"gpu": "NVIDIA H100"})
    words = ["plan", "llama-3.1-8b", "--gpu", "h100-sxm", "--gpus", "2", "--tp", "2", "--concurrency", "4"]
    assert main([*words, "--isl", "8", "--osl", "4", "--format", "none", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    for option in plan["options"]:
        if option["speed"] is not None:
            option["speed"] |= {"low": low * rate, "high": high * rate}
    value = {**plan, BESIDE: {"run": json.loads(run.model_dump_json())}}
    if holds:
        assert seen.as_planned(value).startswith(f"measured {rate:.4g} tokens/s, planned ")
        return
    with pytest.raises(AssertionError, match="outside of the band"):
        seen.as_planned(value)


def test_a_run_that_the_plan_has_no_estimate_of_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of("r", [level_of(((0.1,),), concurrency=4)[0]], engine={"tp": 16}, environment={"gpu": "H100"})
    words = ["plan", "llama-3.1-8b", "--gpu", "h100-sxm", "--gpus", "2", "--concurrency", "4", "--json"]
    assert main(words) == 0
    value = {**json.loads(capsys.readouterr().out), BESIDE: {"run": json.loads(run.model_dump_json())}}
    with pytest.raises(AssertionError, match="no estimate for its tp"):
        seen.as_planned(value)
