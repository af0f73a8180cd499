"""What target compose writes for trtllm-serve, run as it stands but for its paths, with a stand-in.

The stand-in is the reference runtime's. Ready and alive by the probes, its API under the engine's name,
ended in order. No docker and no TensorRT-LLM is run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from scripts.main import main
from tests.e2e.conftest import Engine, free_ports
from tests.support.patience import PATIENCE_S
from tests.support.servers.standin_trtllm_serve import write_trtllm_serve
from triton_repo.client.openai import OpenAiClient

pytestmark = pytest.mark.e2e
VERSION = "1.4.0rc1"


@pytest.fixture
def written(tiny_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, int]:
    """The files of target compose for a model of two ranks, and the port of its API."""
    write_trtllm_serve(tmp_path, engine=tiny_engine.folder, version=VERSION)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    limits = ["--max-batch-size", "8", "--max-input-len", "1024", "--max-seq-len", "4096"]
    built = ["--runtime", "pytorch", "--trtllm", VERSION, "--sm", "90", "--tp", "2", "--name", "tiny"]
    assert main(["build", str(tiny_engine.folder.parent / "source"), *built, *limits]) == 0
    port = free_ports().http
    words = ["--target", "compose", "--port-base", str(port), "--out", "files"]
    assert main(["deploy", "out/tiny/engine", *words]) == 0
    return Path("files").resolve(), port


def here(words: list[str], folder: Path) -> list[str]:
    """A container's words on this host: its mounts are folders here, its Python is ours."""
    engine = str(Path("out/tiny/engine").resolve())
    places = {"/srv/engines/tiny": engine, "/etc/tpforge": str(folder / "config")}
    found = []
    for word in words:
        for mounted, place in places.items():
            word = word.replace(mounted, place)
        found.append(sys.executable if word == "python3" else word)
    return found


def test_the_container_is_ready_answers_and_ends(
    written: tuple[Path, int], tiny_engine: Engine, tmp_path: Path
) -> None:
    folder, port = written
    service = yaml.safe_load((folder / "compose.yaml").read_text())["services"]["trtllm-serve"]
    environment = {
        **service["environment"],
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
    }
    check = here(service["healthcheck"]["test"][1:], folder)
    ready = [word for word in check if word != "--alive"]
    server = subprocess.Popen(
        here(service["command"], folder), env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        until_ready(ready, server)
        assert looked(check) == 0
        assert OpenAiClient(f"http://127.0.0.1:{port}").models() == ("tiny",)
        golden = tiny_engine.manifest.golden[0]
        asked = {"model": "tiny", "prompt": golden.prompt, "max_tokens": 4, "temperature": 0}
        answer = OpenAiClient(f"http://127.0.0.1:{port}").ask("/v1/completions", asked)
        assert golden.text.startswith(answer["choices"][0]["text"].rstrip("\ufffd"))
        server.terminate()
        _, said = server.communicate(timeout=PATIENCE_S)
    finally:
        while server.poll() is None:  # Told twice, it ends what it has started, too.
            server.terminate()
            time.sleep(0.1)
    assert server.returncode == 0, said
    assert "told to end" in said and "nothing is in flight" in said
    assert looked(check) == 2, "nothing listens any more"


def until_ready(words: list[str], server: subprocess.Popen[str]) -> None:
    """As an orchestrator: the probe is asked until it is content, unless the container ends."""
    while looked(words):
        assert server.poll() is None, server.communicate()[1]
        time.sleep(0.5)  # A probe is a Python of its own, and the server needs the processors to load.


def looked(words: list[str]) -> int:
    """The exit status of a probe."""
    return subprocess.run(words, check=False, stderr=subprocess.DEVNULL).returncode
