"""A deployment's workers by a plan's: what `tpforge plan --json` prints is what `deploy --plan` reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scripts.main import main
from tests.support.deployments import DYNAMO_IMAGE
from tests.support.stores import write_engine
from tpforge.manifest import LlmApi
from tpforge.shards.mapping import Mapping

LOAD = ["--isl", "8000", "--osl", "500", "--tpot-ms", "20"]
HOST = ["--target", "dynamo-compose", "--image", DYNAMO_IMAGE]


def planned(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[Path, dict[str, Any]]:
    assert main(["plan", "llama-3.3-70b", "--gpu", "h100-sxm", *LOAD, *words, "--json"]) == 0
    text = capsys.readouterr().out
    path = folder / "plan.json"
    path.write_text(text)
    return path, json.loads(text)


def engine_of(folder: Path, *, tp: int) -> Path:
    """An engine of runtime pytorch; what its files hold does not matter here."""
    api = LlmApi(trtllm="1.3.0rc29", arguments={}, sm=90)
    return write_engine(folder / "engine", runtime="pytorch", mapping=Mapping(tp_size=tp), llm_api=api)


def counts(folder: Path) -> tuple[int, int | None, int | None]:
    options = json.loads((folder / "deployment.json").read_text())["options"]
    return options["replicas"], options.get("prefill_workers"), options.get("decode_workers")


def test_replicas_are_the_plans(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, record = planned(tmp_path, capsys, "--gpus", "8", "--tp", "2")
    assert record["chosen"]["replicas"] > 1
    engine = engine_of(tmp_path, tp=2)
    out = tmp_path / "out"
    assert main(["deploy", str(engine), *HOST, "--plan", str(plan), "--out", str(out)]) == 0
    assert counts(out) == (record["chosen"]["replicas"], None, None)


def test_prefill_and_decode_workers_are_the_plans(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, record = planned(tmp_path, capsys, "--gpus", "8", "--tp", "2", "--disaggregated")
    apart = record["disaggregated"]
    engine = engine_of(tmp_path, tp=2)
    out = tmp_path / "out"
    assert main(["deploy", str(engine), *HOST, "--plan", str(plan), "--out", str(out)]) == 0
    assert counts(out) == (1, apart["prefill"]["workers"], apart["decode"]["workers"])


@pytest.mark.parametrize(
    ("tp", "more", "text", "said"),
    [
        (4, [], None, "replicas of 2 GPUs, the engine has 4 ranks"),
        (2, ["--replicas", "2"], None, "--plan says how many"),
        (2, [], '{"kind": "doctor"}', "is of kind doctor"),
        (2, [], "[", "is no JSON"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    tp: int,
    more: list[str],
    text: str | None,
    said: str,
) -> None:
    plan, _ = planned(tmp_path, capsys, "--gpus", "8", "--tp", "2")
    if text is not None:
        plan.write_text(text)
    engine = engine_of(tmp_path, tp=tp)
    out = tmp_path / "out"
    words = ["deploy", str(engine), *HOST, "--plan", str(plan), "--out", str(out), *more]
    assert main(words) in (2, 4)
    assert said in " ".join(capsys.readouterr().err.split())
    assert not out.exists()
