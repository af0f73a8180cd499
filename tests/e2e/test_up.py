"""The whole way on a tiny model with the real Triton server: up, up again, ask, stop, by the command line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.main import main
from tests.support.ports import free_ports
from tests.support.tiny import write_tiny_llama

pytestmark = [pytest.mark.e2e, pytest.mark.apart]

RECIPE = """
model = "../tiny-llama"
tp = {tp}
name = "tiny"
[limits]
max_batch_size = 4
max_input_len = {max_input_len}
[serve]
port_base = {port_base}
[smoke]
junit = "smoke.xml"
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A recipe for a tiny llama in an otherwise empty directory; whatever it started is stopped."""
    write_tiny_llama(tmp_path / "tiny-llama")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    path = tmp_path / "work" / "recipe.toml"
    path.write_text(RECIPE.format(tp=2, max_input_len=200, port_base=free_ports().http))
    yield path
    assert main(["stop", "--all"]) == 0


def json_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    status = main([*arguments, "--json"])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    value = json.loads(captured.out)
    assert isinstance(value, dict)
    return value


def unchanged(found: dict[str, Any]) -> dict[str, bool]:
    return {stage["name"]: stage["outcome"] == "unchanged" for stage in found["stages"]}


def test_up_does_each_stage_once_until_its_inputs_change(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("build", "verify", "render", "serve", "smoke")
    assert unchanged(json_of(capsys, "up", str(recipe))) == dict.fromkeys(names, False)
    assert Path("smoke.xml").read_text().startswith("<?xml")
    pid = json_of(capsys, "status")["servers"][0]["server"]["pid"]

    again = unchanged(json_of(capsys, "up", str(recipe)))
    assert again == dict.fromkeys(names, True) | {"smoke": False}
    server = json_of(capsys, "status")["servers"][0]
    assert (server["server"]["pid"], server["phase"], server["answers"]) == (pid, "ready", True)

    asked = json_of(capsys, "generate", "One, two, three,", "--max-tokens", "5")
    streamed = json_of(capsys, "generate", "One, two, three,", "--max-tokens", "5", "--stream")
    assert asked["text"] == streamed["text"] == "".join(chunk["text"] for chunk in streamed["chunks"])
    chat = json_of(capsys, "generate", "--chat", "hi", "--max-tokens", "1")
    assert chat["prompt"] == "<|start|>user\nhi<|end|>\n<|start|>assistant\n"

    assert main(["engines", "rm", "tiny"]) == 2
    assert "its server runs; stop it first" in capsys.readouterr().err
    assert main(["serve", "tiny"]) == 3
    assert "runs already" in capsys.readouterr().err

    recipe.write_text(recipe.read_text().replace("max_input_len = 200", "max_input_len = 100"))
    changed = unchanged(json_of(capsys, "up", str(recipe)))
    assert changed == dict.fromkeys(names, False)
    assert json_of(capsys, "status")["servers"][0]["server"]["pid"] != pid

    assert [row["was"] for row in json_of(capsys, "stop")["stopped"]] == ["ready"]
    assert json_of(capsys, "status")["servers"] == []
    assert main(["generate", "hi"]) == 2
    assert "no server runs under out/" in capsys.readouterr().err


def test_a_port_in_use_is_named_and_nothing_is_left(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    port = int(recipe.read_text().split("port_base = ")[1].split()[0]) + 1
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        assert main(["up", str(recipe)]) == 3
    captured = capsys.readouterr()
    assert f"error: port {port} (gRPC) is in use" in captured.err
    assert "serve" in captured.out
    assert "failed" in captured.out
    assert json_of(capsys, "status")["servers"] == []
