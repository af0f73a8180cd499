"""A process without a place: its current directory was removed, or its user has no home."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.commands.table import COMMANDS
from scripts.main import main


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("completion",)])
def test_every_command_in_a_directory_that_was_removed_says_so(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert main([name]) == 3
    said = capsys.readouterr().err
    assert said == "error: the current directory was removed; change to one that is there\n"


def test_a_user_without_a_home_is_told_to_set_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HOME")

    def nobody(_uid: int) -> None:
        raise KeyError("getpwuid(): uid not found: 4242")

    monkeypatch.setattr("pwd.getpwuid", nobody)
    assert main(["status", "--json"]) == 3
    shown = capsys.readouterr()
    assert "has no home directory; set HOME to a folder of its own" in shown.err
    assert json.loads(shown.out)["exit_status"] == 3


def test_help_needs_no_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert main(["--help"]) == 0
    assert main(["serve", "--help"]) == 0
    assert main(["--version"]) == 0
    assert capsys.readouterr().err == ""
