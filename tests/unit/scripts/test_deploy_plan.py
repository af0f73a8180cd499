"""`tpforge deploy --plan`: as many workers as a plan says, of the engine that it plans for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from engines.store import write_manifest
from scripts.main import main
from tests.support.deployments import MANIFESTS

PLAN = ["plan", "llama-3.3-70b", "--gpu", "h100-sxm", "--runtime", "pytorch", "--json"]


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """The record of a 70B at tp=4; its weights are not looked at."""
    folder = tmp_path / "llama" / "engine"
    folder.mkdir(parents=True)
    write_manifest(folder, MANIFESTS["llama70b-dynamo"])
    return folder


def plan(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[Path, dict[str, Any]]:
    capsys.readouterr()
    assert main([*PLAN, *words]) == 0
    text = capsys.readouterr().out
    file = folder / "plan.json"
    file.write_text(text)
    return file, json.loads(text)


def deploy(engine: Path, plan_file: Path, *words: str, target: str = "dynamo") -> int:
    url = ["--engine-url", "s3://models/llama", "--any-digest"] if target != "dynamo-compose" else []
    return main(["deploy", str(engine), "--target", target, *url, "--plan", str(plan_file), *words])


def components(engine: Path) -> dict[str, int]:
    (folder,) = engine.parent.glob("deploy-dynamo*")
    graph = yaml.safe_load((folder / "graph.yaml").read_text())
    return {one["name"]: one["replicas"] for one in graph["spec"]["components"]}


def test_a_plan_of_replicas_gives_as_many_workers(
    engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, said = plan(tmp_path, capsys, "--gpus", "16", "--tp", "4")
    assert said["num_gpus"] // said["chosen"]["tp"] == said["chosen"]["replicas"] == 4
    assert deploy(engine, file) == 0
    assert components(engine) == {"Frontend": 1, "worker": 4}


def test_a_disaggregated_plan_gives_prefill_and_decode_workers(
    engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, said = plan(tmp_path, capsys, "--gpus", "24", "--tp", "4", "--disaggregated")
    apart = said["disaggregated"]
    assert deploy(engine, file) == 0
    found = components(engine)
    assert (found["prefill"], found["decode"]) == (apart["prefill"]["workers"], apart["decode"]["workers"])
    assert apart["label"].startswith(f"{found['prefill']} x TP4 prefill + {found['decode']} x TP4 decode")
    assert 4 * (found["prefill"] + found["decode"]) == apart["gpus"] <= 24


def test_a_host_gets_the_workers_of_a_plan_that_fits_it(
    engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, _ = plan(tmp_path, capsys, "--gpus", "8", "--tp", "4")
    assert deploy(engine, file, target="dynamo-compose") == 0
    composed = yaml.safe_load((engine.parent / "deploy-dynamo-compose" / "compose.yaml").read_text())
    assert list(composed["services"]) == ["prepare", "frontend", "worker-1", "worker-2"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--gpus", "16", "--tp", "8"), r"tp=4 pp=1; plan with --tp 4, .*a worker has tp=8 pp=1"),
        (
            ("--gpus", "16", "--tp", "8", "--disaggregated"),
            r"decode worker has tp=8.*prefill worker has tp=8",
        ),
        (("--gpus", "4", "--tp", "4", "--disaggregated"), r"found no prefill and decode workers on 4 GPUs"),
    ],
)
def test_a_plan_of_other_workers_is_refused(
    words: tuple[str, ...], said: str, engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, _ = plan(tmp_path, capsys, *words)
    assert deploy(engine, file) == 4
    assert re.search(said, capsys.readouterr().err, flags=re.DOTALL)


def test_a_plan_beside_counts_of_ones_own_or_for_another_model_is_refused(
    engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, said = plan(tmp_path, capsys, "--gpus", "16", "--tp", "4")
    assert deploy(engine, file, "--replicas", "2") == 2
    assert "leave out --replicas" in capsys.readouterr().err
    file.write_text(json.dumps({**said, "architecture": "Qwen3ForCausalLM"}))
    assert deploy(engine, file) == 4
    assert "plan that model" in capsys.readouterr().err
    file.write_text(json.dumps({**said, "disaggregated": {"prefill": {"workers": 2}}}))
    assert deploy(engine, file) == 4
    assert "is not what tpforge plan prints" in capsys.readouterr().err


def test_replicas_of_a_plan_are_for_every_target_and_workers_apart_for_dynamo(
    engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, said = plan(tmp_path, capsys, "--gpus", "16", "--tp", "4")
    assert deploy(engine, file, "--image", "here/triton:1", target="kubernetes") == 0
    written = json.loads((engine.parent / "deploy-kubernetes" / "deployment.json").read_text())
    assert written["options"]["replicas"] == said["chosen"]["replicas"] > 1
    file, _ = plan(tmp_path, capsys, "--gpus", "16", "--tp", "4", "--disaggregated")
    assert deploy(engine, file, "--force", target="kubernetes") == 2
    assert "kubernetes does not; plan without --disaggregated" in capsys.readouterr().err
