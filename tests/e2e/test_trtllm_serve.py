"""An engine of runtime pytorch served by trtllm-serve: a stand-in for it that the reference runtime drives.

Built, served, proven over OpenAI's HTTP, started again after a kill, stopped. TensorRT-LLM is not run.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.main import main
from tests.e2e.conftest import Engine, free_ports
from tests.e2e.test_launched_server import HOST, json_of
from tests.support.servers.standin_trtllm_serve import write_trtllm_serve
from triton_repo.client.openai import OpenAiClient
from triton_repo.serve.local import status
from triton_repo.serve.state import read_state

pytestmark = pytest.mark.e2e

VERSION = "1.4.0rc1"
PORT = free_ports().http
RECIPE = """
model = "{model}"
tp = 2
name = "tiny"
runtime = "pytorch"
trtllm = "1.4.0rc1"
sm = 90
[limits]
max_batch_size = 8
max_input_len = 1024
max_seq_len = 4096
[serve]
port_base = {port}
container = "none"
"""


@pytest.fixture
def recipe(tiny_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A host with two GPUs and TensorRT-LLM 1.4.0rc1, whose trtllm-serve is the stand-in."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    host = replace(HOST, packages=(("tensorrt_llm", VERSION),))
    monkeypatch.setattr("engines.host.find_host", lambda: host)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    path = Path("recipe.toml")
    path.write_text(RECIPE.format(model=tiny_engine.folder.parent / "source", port=PORT))
    yield path
    assert main(["stop", "--all"]) == 0


def test_up_serves_proves_and_keeps_a_server_of_trtllm_serve(
    recipe: Path, tiny_engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = write_trtllm_serve(tmp_path, engine=tiny_engine.folder, version=VERSION)
    stages = {stage["name"]: stage for stage in json_of(capsys, "up", str(recipe))["stages"]}
    outcomes = {name: stage["outcome"] for name, stage in stages.items()}
    expected = {"build": "done", "verify": "skipped", "render": "skipped", "serve": "done", "smoke": "done"}
    assert outcomes == expected
    assert " 0 failed" in stages["smoke"]["result"]
    engine = Path("out/tiny/engine").resolve()
    assert json.loads(calls.read_text().splitlines()[0]) == [
        *("serve", str(engine / "model"), "--host", "127.0.0.1", "--port", str(PORT)),
        *("--extra_llm_api_options", str(engine / "llm.yaml"), "--served_model_name", "tiny"),
    ]

    (row,) = json_of(capsys, "status")["servers"]
    assert (row["answers"], row["server"]["api"], row["server"]["model"]) == (True, "openai", "tiny")
    again = {stage["name"]: stage["outcome"] for stage in json_of(capsys, "up", str(recipe))["stages"]}
    assert (again["build"], again["serve"]) == ("unchanged", "unchanged")

    folder = Path("out/tiny/server")
    state = read_state(folder)
    assert state is not None and state.server is not None
    os.kill(state.server.pid, signal.SIGKILL)
    for _ in range(1200):
        now = status(folder)
        if now.restarts == 1 and now.phase == "ready":
            break
        time.sleep(0.05)
    assert (now.restarts, now.phase) == (1, "ready")
    golden = tiny_engine.manifest.golden[0]
    asked = {"model": "tiny", "prompt": golden.prompt, "max_tokens": 4, "temperature": 0}
    answer = OpenAiClient(f"http://127.0.0.1:{PORT}").ask("/v1/completions", asked)
    assert golden.text.startswith(answer["choices"][0]["text"].rstrip("\ufffd"))
    assert main(["smoke"]) == 2
    assert "is trtllm-serve, without Triton's gRPC; ask it with --api openai" in capsys.readouterr().err
    assert [one["was"] for one in json_of(capsys, "stop")["stopped"]] == ["ready"]


def test_a_server_that_listens_and_does_not_generate_is_not_ready(
    recipe: Path, tiny_engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_trtllm_serve(tmp_path, engine=tiny_engine.folder, version=VERSION, answers_after=1)
    assert main(["up", str(recipe)]) == 4
    said = capsys.readouterr().err
    assert "trtllm-serve listens, but did not answer a first request: HTTP 500" in said
    assert status(Path("out/tiny/server")).phase == "stopped"
