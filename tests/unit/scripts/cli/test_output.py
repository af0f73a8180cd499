"""The output layer: whatever strangers put into names and errors, the terminal obeys none of it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from engines.store import write_manifest
from scripts.cli.output import Output
from scripts.main import main
from tests.support.tiny import write_tiny_llama
from tests.support.tiny_engine import write_tiny_engine
from tests.unit.engines.transfer.test_hostile_store import always, raw_server
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


@pytest.mark.parametrize(
    "answer",
    [
        f"HTTP/1.1 500 {HOSTILE}\r\n\r\n",
        f"HTTP/1.1 {HOSTILE}\r\n\r\n",
        f"HTTP/1.1 302 Found\r\nLocation: {HOSTILE}://x\r\n\r\n",
        f"HTTP/1.1 200 OK\r\nContent-Length: {HOSTILE}\r\n\r\n",
        f"{HOSTILE}\r\n\r\n",
    ],
    ids=["reason", "status", "redirect", "length", "no HTTP"],
)
def test_what_a_server_says_reaches_the_terminal_as_text(
    answer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said_by_server = answer.encode("utf-8", "surrogateescape").decode("latin-1")
    with raw_server(always(said_by_server)) as url:
        assert main(["engines", "pull", url, "--out", str(tmp_path / "pulled")]) == 3
        address = url.removeprefix("http://").removesuffix("/tiny")
        assert main(["diagnose", "--url", address]) != 1
    said = capsys.readouterr()
    assert not set("\x1b\x07\u202e\x9b") & set(said.out + said.err)
    assert said.err.startswith("error: ")


def test_a_chat_template_that_raises_reaches_the_terminal_as_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine, manifest, _ = write_tiny_engine(tmp_path)
    write_manifest(engine, manifest)
    (engine / "tokenizer" / "chat_template.jinja").write_text(
        f"{{{{ raise_exception('{HOSTILE}') }}}}", encoding="utf-8"
    )
    asked = ["generate", "--chat", "hi", "--engine", str(engine), "--url", "localhost:1"]
    assert main(asked) == 4
    said = capsys.readouterr()
    assert SHOWN in said.err
    assert not set("\x1b\x07\u202e\x9b") & set(said.out + said.err)


def test_a_log_larger_than_memory_is_read_from_its_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "out" / "pulled" / "server"
    folder.mkdir(parents=True)
    with (folder / LOG_FILE).open("wb") as file:
        file.truncate(1 << 40)
        file.seek(0, os.SEEK_END)
        file.write(b"\nlast but one\nlast\n")
    assert main(["logs", "--lines", "2"]) == 0
    assert capsys.readouterr().out == "last but one\nlast\n"


def test_want_of_memory_is_no_internal_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("scripts.main._run", fill)
    assert main(["gpus"]) == 3
    assert capsys.readouterr().err.startswith("error: not enough memory")
