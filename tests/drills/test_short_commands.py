"""The short form of the drills of commands, for CI: fewer tries of the same code. It starts no server."""

from __future__ import annotations

from pathlib import Path

from tests.drills import faults, hostile_files, kills
from tests.drills.figures import Figure


def test_a_figure_is_good_only_when_all_that_must_be_zero_is() -> None:
    figure = Figure("kill -9 of convert", "kills", num_tries=2, bad={"half outputs": 0})
    figure.took("to service", 2.0)
    figure.took("to service", 1.0)
    assert figure.is_good
    assert figure.line() == (
        "kill -9 of convert | 2 kills | half outputs 0 | to service 2.0 s, at most 2.0 s (n=2)"
    )
    figure.notes.append("two at once")
    assert figure.row() == (
        "| kill -9 of convert | 2 kills | half outputs 0 "
        "| to service 2.0 s, at most 2.0 s (n=2); two at once |"
    )
    figure.count("half outputs")
    assert not figure.is_good


def test_commands_that_are_killed_leave_no_half_output_and_lose_nothing(tmp_path: Path) -> None:
    kills.prepare(tmp_path)
    figures = kills.run(tmp_path, num_kills=3)
    assert [figure.line() for figure in figures if not figure.is_good] == []
    assert len(figures) == len(kills.COMMANDS) + 1


def test_commands_that_cannot_write_say_so_and_leave_what_was_there(tmp_path: Path) -> None:
    kills.prepare(tmp_path)
    figures = faults.run(tmp_path, num_steps=2, commands=("convert", "deploy --force", "engines pull"))
    assert [(figure.line(), figure.notes) for figure in figures if not figure.is_good] == []
    assert len(figures) == len(faults.FAULTS) + 1


def test_files_of_strangers_end_no_command_and_harm_no_canary(tmp_path: Path) -> None:
    figure = hostile_files.run(tmp_path / "hostile", num_cases=6)
    assert figure.is_good, (figure.line(), figure.notes)
    assert figure.num_tries == 2 * 6 + hostile_files.NUM_OTHERS
