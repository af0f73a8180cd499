"""A first start that died by chance is tried again; one that died of something else is told at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tpforge.errors import InputRefused
from triton_repo.serve import supervisor
from triton_repo.serve.ports import Ports
from triton_repo.serve.readiness import Stopped
from triton_repo.serve.server_plan import ServerPlan
from triton_repo.serve.supervisor import Supervisor
from triton_repo.serve.triton_log import DIES_BY_CHANCE

BY_CHANCE = f"tritonserver was ended by SIGABRT; the end of the log:\n  what():  {DIES_BY_CHANCE}"


@pytest.fixture
def starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Serves as often as it starts; each start ends as the next of `ends` says, None for a ready server."""
    plan = ServerPlan(
        repository=tmp_path, state_dir=tmp_path / "server", ports=Ports(), host="localhost", load_timeout_s=1
    )
    one = Supervisor(plan, progress=lambda _message: None, on_ready=lambda _state: None)
    ends: list[str | None] = []
    started: list[int] = []
    monkeypatch.setattr(supervisor, "back_off_s", lambda _failures: 0.0)
    one._state = type("S", (), {"seconds_to_ready": None, "restarts": 0})()  # type: ignore[assignment]

    def wait_ready(_start: Any) -> None:
        started.append(len(started))
        if (end := ends.pop(0)) is not None:
            raise InputRefused(end)

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

    def run(*planned: str | None) -> int:
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
