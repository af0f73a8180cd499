"""Runtime pytorch launched: `serve --detach` and `up` with stand-ins for docker and for the LLM API.

The repository that is served is the launch's own, in a real Triton; what generates is the reference runtime.
TensorRT-LLM itself is not run.
"""

from __future__ import annotations

import json
import os
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engines import reference
from scripts.main import main
from tests.e2e.conftest import Engine
from tests.e2e.test_launched_server import HOST, json_of
from tests.support.patience import PATIENCE_S
from tests.support.ports import free_ports
from tests.support.servers.standin_docker import write_docker
from tpforge.manifest import GoldenAnswer

pytestmark = [pytest.mark.e2e, pytest.mark.apart]

PORT = free_ports().http
RECIPE = """
model = "{model}"
tp = 2
name = "tiny"
runtime = "pytorch"
sm = 90
[limits]
max_batch_size = 8
max_input_len = 1024
max_seq_len = 4096
[repository]
front = "{front}"
[serve]
port_base = {port}
container = "docker"
"""


@pytest.fixture
def calls(tiny_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A host with two GPUs and the stand-ins; the calls of the one for docker."""
    beside = tmp_path / "beside"
    beside.mkdir()
    shutil.copyfile(Path(__file__).parent / "standin_tensorrt_llm.py", beside / "tensorrt_llm.py")
    shutil.copytree(
        Path(reference.__file__).parent, beside / "reference", ignore=shutil.ignore_patterns("__pycache__")
    )
    (beside / "standin_engine.txt").write_text(str(tiny_engine.folder))
    calls = write_docker(tmp_path / "docker", beside=beside)
    monkeypatch.setenv("PATH", f"{tmp_path / 'docker' / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("engines.host.find_host", lambda: HOST)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    yield calls
    assert main(["stop", "--all"]) == 0


def write_recipe(tiny_engine: Engine, *, front: str) -> Path:
    path = Path("recipe.toml")
    path.write_text(RECIPE.format(model=tiny_engine.folder.parent / "source", front=front, port=PORT))
    return path


def golden_of(engine: Engine) -> GoldenAnswer:
    return next(answer for answer in engine.manifest.golden if answer.num_decisive == len(answer.token_ids))


def ask(prompt: str, *, max_tokens: int) -> str:
    """The whole answer of the `llmapi` contract's model, over HTTP."""
    body = {"text_input": prompt, "sampling_param_max_tokens": max_tokens}
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/v2/models/tensorrt_llm/generate", data=json.dumps(body).encode()
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        value: dict[str, Any] = json.loads(answer.read())
    return str(value["text_output"])


def test_up_serves_the_llm_api_and_its_server_answers_as_the_engine_does(
    calls: Path, tiny_engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tiny_engine, front="llmapi")
    stages = {stage["name"]: stage["outcome"] for stage in json_of(capsys, "up", str(recipe))["stages"]}
    done = {"build": "done", "verify": "skipped", "render": "done", "serve": "done", "smoke": "skipped"}
    assert stages == done
    run = json.loads(calls.read_text().splitlines()[0])
    launched = run[run.index("mpirun") :]
    assert launched[:5] == ["mpirun", "--allow-run-as-root", "-n", "2", "trtllm-llmapi-launch"]

    golden = golden_of(tiny_engine)
    assert ask(golden.prompt, max_tokens=len(golden.token_ids)) == golden.text
    assert json_of(capsys, "status")["servers"][0]["phase"] == "ready"
    again = {stage["name"]: stage["outcome"] for stage in json_of(capsys, "up", str(recipe))["stages"]}
    assert again == dict.fromkeys(done, "unchanged") | {"verify": "skipped", "smoke": "skipped"}
    assert [row["was"] for row in json_of(capsys, "stop")["stopped"]] == ["ready"]
    assert json.loads(calls.read_text().splitlines()[-1])[0] in ("ps", "rm")


def test_the_smoke_test_passes_on_a_launched_server_with_the_inflight_front(
    calls: Path, tiny_engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tiny_engine, front="inflight")
    stages = {stage["name"]: stage for stage in json_of(capsys, "up", str(recipe))["stages"]}
    assert stages["smoke"]["outcome"] == "done", stages["smoke"]
    assert " 0 failed" in stages["smoke"]["result"]
    golden = golden_of(tiny_engine)
    answer = json_of(capsys, "generate", golden.prompt, "--max-tokens", str(len(golden.token_ids)))
    assert answer["text"] == golden.text
