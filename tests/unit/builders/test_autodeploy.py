"""Architectures that AutoDeploy alone runs: their llm.yaml, their server, and what AutoDeploy refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from builders.llm_api.arguments import LlmPlan, LlmTarget, plan_llm
from engines.store import read_manifest
from scripts.main import main
from tests.unit.builders.test_declared_models import write_model
from tpforge.errors import InputRefused
from tpforge.manifest import Limits
from tpforge.shards.mapping import Mapping
from tpforge.trtllm.versions import find_release
from triton_repo.trtllm_serve.disaggregated import Disaggregated, Group, disaggregated_files

LIMITS = Limits(max_batch_size=8, max_input_len=1024, max_seq_len=2048)


def plan(given: dict[str, Any], **sizes: int) -> LlmPlan:
    release = find_release("1.4.0rc1")
    target = LlmTarget(release, Mapping(**sizes), LIMITS, sm=90, backend="_autodeploy")
    return plan_llm(target, given=given)


def test_the_ranks_are_a_world_size_and_no_size_of_a_kind_of_parallelism_is_given() -> None:
    found = plan({"enable_chunked_prefill": True}, tp_size=4)
    assert found.nested == {
        "backend": "_autodeploy",
        "world_size": 4,
        "max_batch_size": 8,
        "max_input_len": 1024,
        "max_seq_len": 2048,
        "enable_chunked_prefill": True,
    }
    assert any("AutoDeploy, a prototype, divides it" in one for one in found.warnings)


@pytest.mark.parametrize(
    ("given", "sizes", "said"),
    [
        ({}, {"pp_size": 2}, "--pp 2: AutoDeploy divides the model"),
        ({}, {"tp_size": 2, "moe_ep_size": 2}, "--moe-ep 2: AutoDeploy"),
        ({"enable_attention_dp": True}, {"tp_size": 2}, "enable_attention_dp: AutoDeploy"),
        ({"context_parallel_size": 2}, {}, "context_parallel_size: AutoDeploy"),
        ({"gpus_per_node": 8}, {}, "gpus_per_node: AutoDeploy takes that of the host"),
        ({"max_beam_width": 2}, {}, "max_beam_width: AutoDeploy has no beam search"),
    ],
)
def test_what_ends_its_start_is_refused(given: dict[str, Any], sizes: dict[str, int], said: str) -> None:
    with pytest.raises(InputRefused) as refused:
        plan(given, **sizes)
    assert said in str(refused.value)


def test_an_engine_of_it_is_served_by_its_backend_and_not_divided_into_prompts_and_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "model", "SmolLM3ForCausalLM")
    words = ["build", str(model), "--runtime", "pytorch", "--trtllm", "1.4.0rc1", "--sm", "90", "--tp", "2"]
    engine = tmp_path / "engine"
    assert main([*words, "--max-seq-len", "64", "--out", str(engine)]) == 0
    values = yaml.safe_load((engine / "llm.yaml").read_text())
    assert (values["backend"], values["world_size"]) == ("_autodeploy", 2)
    capsys.readouterr()
    assert main(["serve", str(engine), "--container", "docker", "--dry-run"]) == 0
    assert "--backend _autodeploy" in capsys.readouterr().out
    assert main(["deploy", str(engine), "--target", "slurm", "--out", str(tmp_path / "job")]) == 0
    assert "--backend _autodeploy" in "".join(one.read_text() for one in (tmp_path / "job").glob("*.sh"))
    group = Group(engine, read_manifest(engine), 1)
    with pytest.raises(InputRefused, match="runs by AutoDeploy"):
        disaggregated_files(Disaggregated(group, group, "NIXL", tmp_path))
