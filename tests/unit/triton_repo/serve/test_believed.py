"""What `status`, `stop` and `serve` believe: nothing that may have come with an engine, or from another user.

The attacks are what a stranger's folder, or another user of this machine, can really do; each has a canary, a
program, a file or a process, that must be as it was afterwards.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from scripts.main import main
from tpforge.errors import EnvironmentUnusable
from tpforge.outputs.places import state_home
from triton_repo.promote.router import Router
from triton_repo.serve import private, processes, state
from triton_repo.serve.launched import ContainerName, LaunchedProgram
from triton_repo.serve.local import list_servers, status, stop


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def stranger() -> Iterator[processes.ProcessId]:
    """A process of the user's that is no supervisor."""
    with subprocess.Popen(["sleep", "60"]) as process:
        found = processes.identify(process.pid)
        assert found is not None
        yield found
        process.kill()


def claims(process: processes.ProcessId, **changes: object) -> dict[str, Any]:
    """A state as server.json has it, which calls a process a supervisor."""
    return {
        "schema_version": 1,
        "phase": "ready",
        "message": "",
        "repository": "/r",
        "host": "127.0.0.1",
        "ports": {"http": 8000, "grpc": 8001, "metrics": 8002},
        "log": "/r/triton.log",
        "mark": "tpforge-0123456789ab",
        "supervisor": asdict(process),
        **changes,
    }


def plant(folder: Path, value: dict[str, Any]) -> None:
    """Put a state where one is believed, as only the user, or a mistake, can."""
    private.make_private(folder)
    text = json.dumps({"folder": str(folder.resolve()), "state": value})
    private.write_private(state.state_file(folder), text)


def test_a_state_beside_an_engine_runs_removes_and_kills_nothing(
    tmp_path: Path, stranger: processes.ProcessId
) -> None:
    program, ran = tmp_path / "evil.sh", tmp_path / "ran"
    program.write_text(f"#!/bin/sh\ntouch {ran}\n")
    program.chmod(0o755)
    folder = tmp_path / "out" / "pulled" / "server"
    folder.mkdir(parents=True)
    canary = Path("/dev/shm") / f"canary-{os.getpid()}"
    canary.touch()
    container = {"engine": str(program), "name": "x"}
    value = claims(stranger, container=container, shared_memory=canary.name)
    (folder / "server.json").write_text(json.dumps(value))
    try:
        for words in (["status"], ["stop"], ["stop", "--all"], ["stop", str(folder.parent)]):
            main(words)
        assert canary.exists()
    finally:
        canary.unlink()
    assert not ran.exists()
    assert processes.is_alive(stranger)
    assert list_servers(tmp_path / "out") == ()
    assert (folder / "server.json").exists(), "it is the user's file, or a stranger's, and not ours"


def test_a_process_that_does_not_hold_the_lock_of_the_folder_is_not_ended(
    tmp_path: Path, stranger: processes.ProcessId
) -> None:
    plant(tmp_path / "server", claims(stranger))
    assert status(tmp_path / "server").phase == "crashed"
    stop(tmp_path / "server")
    assert processes.is_alive(stranger)
    assert status(tmp_path / "server").phase == "stopped"


def test_a_router_is_only_the_process_that_holds_its_lock(
    tmp_path: Path, stranger: processes.ProcessId
) -> None:
    place = tmp_path / "out" / "router"
    text = json.dumps({"url": "127.0.0.1:1", "process": asdict(stranger)})
    place.mkdir(parents=True)
    for name in ("router.json", "route.json"):
        (place / name).write_text(text)
    private.write_private(private.make_private(place) / "router.json", text)
    assert not Router(place).stop()
    assert Router(place).route is None
    assert processes.is_alive(stranger)


@pytest.mark.parametrize(
    "field",
    [
        {"container": {"engine": "/tmp/evil.sh", "name": "x"}},
        {"container": {"engine": "docker", "name": "--privileged"}},
        {"container": {"engine": "docker", "name": "a/../b"}},
        {"shared_memory": "../../home/me/"},
        {"shared_memory": "tpforge-/../x"},
        {"shared_memory": ""},
        {"mark": "*"},
        {"mark": "tpforge-x\nPATH"},
    ],
)
def test_a_state_whose_fields_are_not_of_the_closed_forms_is_none(
    tmp_path: Path, stranger: processes.ProcessId, field: dict[str, Any]
) -> None:
    plant(tmp_path / "server", claims(stranger))
    assert state.read_state(tmp_path / "server") is not None
    plant(tmp_path / "server", claims(stranger, **field))
    assert state.read_state(tmp_path / "server") is None
    assert stop(tmp_path / "server").phase == "stopped"


def test_what_is_launched_has_the_closed_forms_too() -> None:
    with pytest.raises(ValidationError):
        ContainerName(engine="sh", name="x")  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        LaunchedProgram(words=("x",), environment={}, server_id="x", shared_memory="/")


def test_the_state_of_one_folder_is_not_that_of_another(
    tmp_path: Path, stranger: processes.ProcessId
) -> None:
    plant(tmp_path / "a", claims(stranger))
    private.make_private(tmp_path / "b")
    state.state_file(tmp_path / "a").rename(state.state_file(tmp_path / "b"))
    assert state.read_state(tmp_path / "b") is None


def test_the_folder_of_the_state_is_the_users_alone_whatever_the_umask_says(
    tmp_path: Path, stranger: processes.ProcessId
) -> None:
    before = os.umask(0)
    try:
        plant(tmp_path / "server", claims(stranger))
    finally:
        os.umask(before)
    file = state.state_file(tmp_path / "server")
    assert file.is_relative_to(tmp_path / "home")
    modes = [path.stat().st_mode & 0o777 for path in (file, file.parent, file.parent.parent, state_home())]
    assert modes == [0o600, 0o700, 0o700, 0o700]


@pytest.mark.parametrize("above", range(4))
def test_a_state_that_others_can_write_is_refused_by_name(
    tmp_path: Path, stranger: processes.ProcessId, above: int
) -> None:
    plant(tmp_path / "server", claims(stranger))
    file = state.state_file(tmp_path / "server")
    path = [file, *file.parents][above]
    path.chmod(path.stat().st_mode | 0o020)
    with pytest.raises(EnvironmentUnusable, match=r"can be written by other users \(mode 7?6?[27]0"):
        status(tmp_path / "server")
    assert main(["stop", "--all"]) == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_state_of_another_user_is_refused(tmp_path: Path, stranger: processes.ProcessId) -> None:
    plant(tmp_path / "server", claims(stranger))
    os.chown(state.state_file(tmp_path / "server"), 12345, 12345)
    with pytest.raises(EnvironmentUnusable, match="belongs to user 12345, expected 0"):
        stop(tmp_path / "server")


@pytest.mark.parametrize("kind", ["fifo", "/dev/zero", "link", "folder", "large"])
def test_what_is_no_plain_small_file_is_refused_and_never_waited_for(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "server"
    private.make_private(folder)
    file = state.state_file(folder)
    match kind:
        case "fifo":
            os.mkfifo(file, 0o600)
        case "/dev/zero":
            file.symlink_to(kind)
        case "link":
            (tmp_path / "target").write_text("{}")
            file.symlink_to(tmp_path / "target")
        case "folder":
            file.mkdir(mode=0o700)
        case "large":
            file.touch(0o600)
            os.truncate(file, private.MAX_BYTES + 1)
    with pytest.raises(EnvironmentUnusable, match=r"server\.json: .*remove it"):
        status(folder)


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_a_log_is_not_written_through_what_came_with_an_engine(tmp_path: Path, kind: str) -> None:
    canary, log = tmp_path / "profile", tmp_path / "triton.log"
    canary.write_text("mine")
    if kind == "link":
        log.symlink_to(canary)
    elif kind == "fifo":
        os.mkfifo(log)
    else:
        log.mkdir()
    with pytest.raises(EnvironmentUnusable, match="is no plain file, and not of tpforge: remove it"):
        private.open_log(log)
    assert canary.read_text() == "mine"


def test_a_log_is_appended_to(tmp_path: Path) -> None:
    for text in (b"a", b"b"):
        with private.open_log(tmp_path / "triton.log") as log:
            log.write(text)
    assert (tmp_path / "triton.log").read_bytes() == b"ab"


def test_a_relative_folder_for_state_is_ignored_as_the_standard_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "out/planted")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert state_home() == tmp_path / "me" / ".local" / "state" / "tpforge"


def test_a_folder_for_state_that_cannot_be_made_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(EnvironmentUnusable, match="set XDG_STATE_HOME to a folder of your own"):
        private.make_private(tmp_path / "server")


def test_regions_of_others_and_other_things_are_not_removed() -> None:
    prefix = f"tpforge-test{os.getpid()}_"
    folder, link = processes.SHARED_MEMORY / f"{prefix}folder", processes.SHARED_MEMORY / f"{prefix}link"
    folder.mkdir()
    link.symlink_to("/etc/hostname")
    try:
        assert processes.remove_shared_memory(prefix) == 0
        assert folder.exists() and link.is_symlink()
    finally:
        folder.rmdir()
        link.unlink()
