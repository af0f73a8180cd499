"""Which server is stopped and whose log is shown when nobody says whose."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.flows.serve import find_log, serve_engine, stop_servers
from tpforge.errors import UsageError
from tpforge.outputs.places import Places
from tpforge.recipe import ServeRecipe
from triton_repo.serve import processes, state
from triton_repo.serve.local import ServeOptions
from triton_repo.serve.ports import Ports

_locks = ExitStack()


@pytest.fixture(autouse=True)
def locks() -> Iterator[None]:
    """The locks of the servers of a test, which this process holds as their supervisor would."""
    with _locks:
        yield


def server(root: Path, name: str, phase: state.Phase, *, log: str | None = None, age_s: int = 0) -> Path:
    folder = root / name / "server"
    folder.mkdir(parents=True)
    if phase != "stopping":
        me = processes.identify(os.getpid())
        assert me is not None
        gone = replace(me, start_ticks=me.start_ticks - 1)
        found = state.ServerState(
            phase=phase,
            message="",
            repository=root,
            host="127.0.0.1",
            ports=Ports(),
            log=folder / state.LOG_FILE,
            mark="tpforge-test-nobody",
            supervisor=gone if phase == "failed" else me,
        )
        state.write_state(folder, found)
        if phase != "failed":
            _locks.enter_context(state.exclusive(folder))
    if log is not None:
        (folder / state.LOG_FILE).write_text(log)
        os.utime(folder / state.LOG_FILE, (1_000_000 - age_s, 1_000_000 - age_s))
    return folder


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []

    def stop(folder: Path) -> str:
        names.append(folder.parent.name)
        return folder.parent.name

    monkeypatch.setattr("triton_repo.serve.local.stop", stop)
    return names


def test_a_failed_server_does_not_make_the_one_that_runs_ambiguous(
    tmp_path: Path, stopped: list[str]
) -> None:
    server(tmp_path, "broken", "failed")
    server(tmp_path, "running", "ready")
    stop_servers(None, every=False, root=tmp_path)
    assert stopped == ["running"]


def test_failed_servers_are_forgotten_when_no_other_runs(tmp_path: Path, stopped: list[str]) -> None:
    for name in ("a", "b"):
        server(tmp_path, name, "failed")
    stop_servers(None, every=False, root=tmp_path)
    assert stopped == ["a", "b"]


def test_two_that_run_have_to_be_told_apart(tmp_path: Path, stopped: list[str]) -> None:
    for name in ("a", "b"):
        server(tmp_path, name, "ready")
    with pytest.raises(UsageError, match=r"several servers run \(a, b\)"):
        stop_servers(None, every=False, root=tmp_path)
    assert stopped == []


def test_the_log_is_that_of_the_server_that_runs_though_another_is_newer(tmp_path: Path) -> None:
    running = server(tmp_path, "running", "ready", log="old", age_s=100)
    server(tmp_path, "newer", "failed", log="new")
    assert find_log(None, state.LOG_FILE, root=tmp_path) == running / state.LOG_FILE


def test_without_one_that_runs_it_is_the_log_that_was_written_last(tmp_path: Path) -> None:
    server(tmp_path, "older", "failed", log="old", age_s=100)
    last = server(tmp_path, "last", "failed", log="new")
    assert find_log(None, state.LOG_FILE, root=tmp_path) == last / state.LOG_FILE


def test_whose_log_is_asked_when_several_run_and_said_when_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no log"):
        find_log(None, state.LOG_FILE, root=tmp_path)
    for name in ("a", "b"):
        server(tmp_path, name, "ready", log="")
    with pytest.raises(UsageError, match="say whose log"):
        find_log(None, state.LOG_FILE, root=tmp_path)


@pytest.mark.parametrize(("asked", "given"), [(None, 30), (0, 0), (90.5, 90.5)])
def test_requests_in_flight_have_the_time_that_the_recipe_gives_them(
    asked: float | None, given: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[ServeOptions] = []
    monkeypatch.setattr("scripts.flows.serve.fresh_repository", lambda *_: (tmp_path, False))
    serve = "triton_repo.serve.local.serve"
    monkeypatch.setattr(serve, lambda _, *, options, **_more: served.append(options))
    recipe = ServeRecipe(drain=asked, load_timeout=60)
    serve_engine(Places(tmp_path / "engine"), recipe, detach=True, progress=lambda _message: None)
    assert [options.drain_s for options in served] == [given]
