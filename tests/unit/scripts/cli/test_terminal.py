"""What a terminal shows and a pipe gets: tables that fit, colours that can be turned off, errors as JSON."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TextIO

import pytest

from scripts.cli.colours import coloured
from scripts.main import main
from scripts.reports import columns
from scripts.reports.columns import table

ROOT = Path(__file__).parents[4]
LONG = "needed for --container only, and for the builds of releases that this host has no libraries of"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [50, 60, 80, 120])
def test_a_table_fits_its_width_and_loses_no_word(width: int) -> None:
    rows = [("missing", "containers", "neither docker nor podman is here", LONG), ("ok", "disk", "3 GiB", "")]
    shown = table(rows, header=("", "part", "found", "what to do"), width=width)
    assert max(map(len, shown.splitlines())) <= width
    for row in rows:
        for cell in row:
            for word in cell.split():
                assert word in shown
    assert shown.splitlines()[0].split() == ["part", "found", "what", "to", "do"]


def test_a_table_that_fits_is_as_it_was_and_a_pipe_has_no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("a", "b" * 300), ("c", "d")]
    plain = table(rows, header=("x", "y"), width=None)
    assert plain == f"x  y\na  {'b' * 300}\nc  d"
    assert table([("a", "b")], header=("x", "y"), width=80) == "x  y\na  b"
    monkeypatch.setattr("sys.stdout", Terminal())
    monkeypatch.setattr(columns.shutil, "get_terminal_size", lambda: os.terminal_size((100, 30)))
    assert max(map(len, table(rows, header=("x", "y")).splitlines())) == 100


def test_a_word_longer_than_its_column_is_broken_and_not_lost() -> None:
    shown = table([("x" * 70, "y" * 70)], header=("a", "b"), width=60)
    assert max(map(len, shown.splitlines())) <= 60
    assert (shown.count("x"), shown.count("y")) == (70, 70)


def test_words_that_judge_are_coloured_on_a_terminal_that_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal: TextIO = Terminal()
    red, green, end = "\x1b[31m", "\x1b[32m", "\x1b[0m"
    text = "missing  GPUs\nok       disk, ok\nokay\nerror: no"
    shown = coloured(text, stream=terminal)
    assert shown == f"{red}missing{end}  GPUs\n{green}ok{end}       disk, ok\nokay\n{red}error:{end} no"
    assert coloured(text, stream=io.StringIO()) == text
    monkeypatch.setenv("NO_COLOR", "1")
    assert coloured(text, stream=terminal) == text
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert coloured(text, stream=terminal) == text


@pytest.mark.parametrize(
    ("words", "status", "error"),
    [
        (["plan", "llama-3.1-8b", "--gpu", "xx"], 4, "InputRefused"),
        (["build", "m", "--tp", "0"], 2, "BadParameter"),
        (["engines", "show", "nothing"], 4, "InputRefused"),
        (["engines", "nothing"], 2, "NoSuchCommand"),
        (["smoke", "localhost:1"], 3, "ServerUnreachable"),
    ],
)
def test_an_error_of_a_command_with_json_is_json_too(
    words: list[str], status: int, error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--json"]) == status
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert (found["kind"], found["schema_version"], found["exit_status"]) == ("error", 1, status)
    assert found["error"] == error
    assert found["message"] in said.err
    assert main(words) == status
    assert capsys.readouterr().out == ""


def test_a_command_that_has_printed_its_object_prints_no_second_one_for_its_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}')
    status = main(["inspect", str(tmp_path), "--json"])
    assert status == 4
    json.loads(capsys.readouterr().out)


def test_every_kind_is_words_with_underscores() -> None:
    for path in [*(ROOT / "scripts/commands").rglob("*.py"), *(ROOT / "scripts/cli").rglob("*.py")]:
        for kind in re.findall(r'\.record\(\s*"([^"]*)"', path.read_text(encoding="utf-8")):
            assert re.fullmatch(r"[a-z]+(_[a-z]+)*", kind), (path, kind)


def test_headers_are_wrapped_before_cells_of_figures_are() -> None:
    rows = [("h100-sxm", "3352", "989.5"), ("l4", "300", "121")]
    header = ("GPU", "memory GB/s of one GPU", "TFLOPS in 16 bit")
    shown = table(rows, header=header, width=28).splitlines()
    assert max(map(len, shown)) <= 28
    assert [line.split() for line in shown[-2:]] == [list(row) for row in rows]


@pytest.mark.parametrize("width", [24, 40, 80])
def test_columns_that_do_not_fit_follow_in_a_block_beside_the_first(width: int) -> None:
    rows = [(f"1.{row}.0", *(f"value{row}-{column}" for column in range(9))) for row in range(3)]
    shown = table(rows, header=("release", *(f"column{column}" for column in range(9))), width=width)
    assert max(map(len, shown.splitlines())) <= width
    blocks = [[line.split() for line in block.splitlines()] for block in shown.split("\n\n")]
    assert [cell for block in blocks for cell in block[2][1:]] == list(rows[1][1:])
    assert all([line[0] for line in block] == ["release", "1.0.0", "1.1.0", "1.2.0"] for block in blocks)


def test_a_file_that_nests_without_end_is_refused_and_our_own_recursion_is_a_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "deep.toml").write_text("a = " + "[" * 5000)
    (tmp_path / "deep.yaml").write_text("a: " + "[" * 5000)
    (tmp_path / "config.json").write_text("[" * 100_000)
    for words in (
        ["up", str(tmp_path / "deep.toml"), "--dry-run"],
        ["gpus", "--gpu-file", str(tmp_path / "deep.toml")],
        ["migrate", str(tmp_path / "deep.yaml"), "--from", "1.2.1", "--to", "1.4.0rc1"],
        ["migrate", str(tmp_path)],
    ):
        assert main(words) == 4, words
        assert "error: " in capsys.readouterr().err

    def endless(*_: object, **__: object) -> None:
        endless()

    monkeypatch.setattr("scripts.flows.serve.stop_servers", endless)
    assert main(["stop"]) == 1
    assert "internal error: RecursionError" in capsys.readouterr().err


def run_in_shell(command: str) -> subprocess.CompletedProcess[bytes]:
    """A command line of `tpforge`, as a shell runs it."""
    words = command.replace("tpforge", f"{shlex.quote(sys.executable)} -m tpforge", 1)
    return subprocess.run(["bash", "-c", words], cwd=ROOT, capture_output=True, check=False)


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("tpforge versions --json > /dev/full", 3),
        ("tpforge versions > /dev/full", 3),
        ("tpforge versions >&-", 0),
        ("tpforge versions 2>&- >/dev/null", 0),
        ("tpforge versions <&- >/dev/null", 0),
        ("tpforge versions no-such-argument --json >&-", 2),
        ("tpforge versions no-such-argument 2>&-", 2),
        ("tpforge versions $'\\xff'", 2),
    ],
)
def test_streams_that_are_closed_or_full_and_bytes_that_are_no_text_are_no_bug(
    command: str, status: int
) -> None:
    done = run_in_shell(command)
    assert (done.returncode, b"Traceback" in done.stderr, b"internal" in done.stderr) == (
        status,
        False,
        False,
    ), done.stderr


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_a_prompt_on_stdin_that_is_no_text_is_refused(
    errors: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["generate", "-"], ["generate", "--chat", "-"]):
        stdin = io.TextIOWrapper(io.BytesIO(b"\xff\xfe"), encoding="utf-8", errors=errors)
        monkeypatch.setattr("sys.stdin", stdin)
        assert main(words) == 2
        assert "stdin is not UTF-8 text" in capsys.readouterr().err
