"""The short form of the drills, which CI runs: the same code, fewer tries."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.drills import clients, faults, hostile_clients, hostile_files, kills, memory, requests
from tests.drills.figures import Figure
from tests.e2e.conftest import Serving, lockstep, tiny_engine

__all__ = ["lockstep", "tiny_engine"]  # fixtures of the tests that start servers


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


@pytest.mark.e2e
def test_requests_of_every_kind_hang_nothing_and_harm_no_other(lockstep: Serving) -> None:
    figure = requests.run(lockstep.server.grpc_url, lockstep.server.http_url, num_requests=120)
    assert figure.is_good, figure.line()
    assert figure.num_tries == 120


@pytest.mark.e2e
def test_clients_that_misbehave_harm_no_other(lockstep: Serving) -> None:
    server = lockstep.server
    figure = clients.run(server.grpc_url, server.http_url, num_clients=12, num_connections=50)
    assert figure.is_good, figure.line()


@pytest.mark.e2e
def test_hostile_clients_harm_no_other_and_are_let_in_nowhere(lockstep: Serving) -> None:
    figure = hostile_clients.run(lockstep.server, num_streams=200)
    must = {kind: number for kind, number in figure.bad.items() if not kind.startswith("over")}
    assert set(must.values()) == {0}, figure.line()
    assert figure.num_tries == 7


@pytest.mark.e2e
def test_a_model_whose_memory_ran_out_is_back_and_the_cause_is_told(lockstep: Serving) -> None:
    (figure,) = memory.run(lockstep.server, parts=("stub",))
    if figure.num_tries == 0:
        pytest.skip(f"no control group of memory can be made here: {figure.notes}")
    assert figure.is_good, (figure.line(), figure.notes)
