"""The examples of docs/clients.md and docs/deploy/this-machine.md against a real server of the tiny engine.

Its model says other words than the demo's, so that only the form of an answer is held to the page.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.main import main
from tests.e2e.conftest import Engine, Serving
from tests.support.ended import end_server
from tests.support.examples import code_blocks, examples
from tests.support.ports import free_ports

pytestmark = pytest.mark.e2e
CLIENTS = "docs/clients.md"
MACHINE = "docs/deploy/this-machine.md"


def at(text: str, serving: Serving) -> str:
    """An example with this server's addresses."""
    server = serving.server
    return text.replace("http://localhost:8000", server.http_url).replace("localhost:8001", server.grpc_url)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_gets_the_fields_of_the_page(lockstep: Serving) -> None:
    (example,) = [one for one in examples() if one.page == CLIENTS and "/v2/models/" in one.words[1]]
    (shown,) = [block for block in code_blocks(CLIENTS, "") if block.startswith('{"batch_index"')]
    done = subprocess.run(
        [at(word, lockstep) for word in example.words],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    answer = json.loads(done.stdout)
    assert set(answer) == set(json.loads(shown))
    assert answer["model_name"] == "ensemble" and answer["text_output"]


@pytest.mark.parametrize("number", [0, 1], ids=["whole", "in pieces"])
def test_the_clients_of_triton_get_an_answer(lockstep: Serving, number: int) -> None:
    block = [one for one in code_blocks(CLIENTS, "python") if "tritonclient" in one][number]
    done = subprocess.run(
        [sys.executable, "-c", at(block, lockstep)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    pieces = done.stdout.count("|")
    assert pieces > 1 if number else done.stdout.startswith("[array([b'")


def test_this_machines_page_goes_from_an_engine_to_an_answer_and_to_the_end(
    tiny_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Both blocks, in their order, in a folder with an engine of that name."""
    monkeypatch.chdir(tmp_path)
    plain = [one.words for one in examples() if one.page == MACHINE and one.program == "tpforge"]
    plain = [words for words in plain if not any(word.startswith("--tls") for word in words)]
    verbs = [words[1] for words in plain]
    assert verbs == ["serve", "generate", "status", "status", "logs", "logs", "smoke", "stop"]
    places = Path("out") / plain[0][2]
    shutil.copytree(tiny_engine.folder, places / "engine")
    try:
        for words in plain:
            port = ["--port-base", str(free_ports().http)] if words[1] == "serve" else []
            assert main([*words[1:], *port]) == 0, f"{' '.join(words)}: {capfd.readouterr().err}"
    finally:
        end_server(places / "server")
    said = capfd.readouterr()
    assert "ready after" in said.out and "0 failed" in said.out
