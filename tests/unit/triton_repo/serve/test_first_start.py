"""A first start that died or hung by chance is tried again; one that failed otherwise is told at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tpforge.errors import InputRefused, TpforgeError
from triton_repo.serve import supervisor
from triton_repo.serve.ports import Ports
from triton_repo.serve.readiness import Stalled, Stopped
from triton_repo.serve.server_plan import ServerPlan
from triton_repo.serve.supervisor import Supervisor
from triton_repo.serve.triton_log import DIES_BY_CHANCE

BY_CHANCE = f"tritonserver was ended by SIGABRT; the end of the log:\n  what():  {DIES_BY_CHANCE}"


@pytest.fixture
def starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Serves as often as it starts; each start ends as the next of `ends` says, None for a ready server.

    A text is that of the log of one that died.
    """
    plan = ServerPlan(
        repository=tmp_path, state_dir=tmp_path / "server", ports=Ports(), host="localhost", load_timeout_s=1
    )
    one = Supervisor(plan, progress=lambda _message: None, on_ready=lambda _state: None)
    ends: list[TpforgeError | str | None] = []
    started: list[int] = []
    monkeypatch.setattr(supervisor, "back_off_s", lambda _failures: 0.0)
    one._state = type("S", (), {"seconds_to_ready": None, "restarts": 0})()  # type: ignore[assignment]

    def wait_ready(_start: Any) -> None:
        started.append(len(started))
        if (end := ends.pop(0)) is not None:
            raise end if isinstance(end, TpforgeError) else InputRefused(end)

    def ready(_seconds: float) -> None:
        raise Stopped

    for name, stands in (
        ("_start", lambda: None),
        ("_wait_ready", wait_ready),
        ("_start_companions", lambda: None),
        ("_say_ready", ready),
        ("_kill", lambda: None),
        ("_write", lambda *_, **__: None),
    ):
        monkeypatch.setattr(one, name, stands)

    def run(*planned: TpforgeError | str | None) -> int:
        ends.extend(planned)
        one._serve()
        return len(started)

    run.started = started  # type: ignore[attr-defined]
    return run


def test_a_first_start_that_died_by_chance_is_tried_again(starts: Any) -> None:
    with pytest.raises(Stopped):
        starts(BY_CHANCE, BY_CHANCE, None)
    assert len(starts.started) == 3


def test_chance_is_believed_twice(starts: Any) -> None:
    with pytest.raises(InputRefused, match="lock_exception"):
        starts(BY_CHANCE, BY_CHANCE, BY_CHANCE, None)
    assert len(starts.started) == 3


def test_another_reason_is_told_at_once(starts: Any) -> None:
    with pytest.raises(InputRefused, match="no such module"):
        starts("a model did not load: no such module", None)
    assert len(starts.started) == 1


def test_a_first_start_that_hung_is_tried_once_more(starts: Any) -> None:
    with pytest.raises(Stopped):
        starts(Stalled("hangs"), None)
    assert len(starts.started) == 2


def test_a_hang_is_believed_once(starts: Any) -> None:
    with pytest.raises(Stalled, match="hangs"):
        starts(Stalled("hangs"), Stalled("hangs"), None)
    assert len(starts.started) == 2


def test_whoever_waits_is_told_of_the_first_time_that_it_is_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been started again by then: `restarts` says nothing of that."""
    plan = ServerPlan(
        repository=tmp_path, state_dir=tmp_path / "server", ports=Ports(), host="localhost", load_timeout_s=1
    )
    told: list[int] = []
    one = Supervisor(plan, progress=lambda _message: None, on_ready=lambda state: told.append(state.restarts))
    monkeypatch.setattr(supervisor, "refuse_used", lambda *_, **__: None)
    monkeypatch.setattr(one, "_prepare_tritonserver", lambda: None)
    monkeypatch.setattr(supervisor, "models_of", lambda _repository: ())
    plan.state_dir.mkdir()
    one._prepare()
    one._write("restarting", "died by chance", restarts=1)
    one._say_ready(5)
    one._write("restarting", "killed", restarts=2)
    one._say_ready(5)
    assert told == [1]
