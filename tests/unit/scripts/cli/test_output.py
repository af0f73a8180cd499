"""The output layer: whatever strangers put into names and errors, the terminal obeys none of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.cli.output import Output
from scripts.main import main
from tests.support.tiny import write_tiny_llama
from triton_repo.serve.state import LOG_FILE

HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202e\x9b"
SHOWN = "\\x1b]0;owned\\x07\\x1b[2J\\u202e\\x9b"


@pytest.mark.parametrize("method", ["result", "piece", "note", "progress"])
def test_text_for_people_is_filtered_on_every_way_out(
    method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    getattr(Output(), method)(f"tensor {HOSTILE}")
    said = capsys.readouterr()
    assert (said.out + said.err).rstrip("\n") == f"tensor {SHOWN}"


def test_json_is_escaped_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    Output(as_json=True).record("x", {"name": HOSTILE})
    said = capsys.readouterr().out
    assert said.isascii() and "\x1b" not in said
    assert json.loads(said)["name"] == HOSTILE


@pytest.mark.parametrize("debug", [[], ["--debug"]])
def test_errors_and_tracebacks_are_filtered(debug: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", f"/missing/{HOSTILE}", *debug]) != 0
    said = capsys.readouterr()
    assert not set("\x1b\x07\u202e\x9b") & set(said.out + said.err)
    assert SHOWN in said.err


def test_a_name_of_a_megabyte_does_not_fill_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "/missing/" + "x" * 1_000_000]) != 0
    said = capsys.readouterr().err
    assert len(said) < 5000 and "characters more" in said


def test_a_name_of_a_tensor_reaches_the_terminal_as_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file, save_file

    write_tiny_llama(tmp_path)
    weights = next(tmp_path.glob("*.safetensors"))
    tensors = load_file(weights)
    save_file({**tensors, f"model.{HOSTILE}": next(iter(tensors.values())).clone()}, weights)
    main(["inspect", str(tmp_path)])
    said = capsys.readouterr()
    assert SHOWN in said.out + said.err
    assert not set("\x1b\x07\u202e\x9b") & set(said.out + said.err)


def test_lines_of_a_log_reach_the_terminal_as_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "out" / "pulled" / "server"
    folder.mkdir(parents=True)
    (folder / LOG_FILE).write_text(f"{HOSTILE}\n", encoding="utf-8")
    assert main(["logs"]) == 0
    assert capsys.readouterr().out == f"{SHOWN}\n"
