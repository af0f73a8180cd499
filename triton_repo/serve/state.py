"""server.json: what a supervisor says about its server, and the lock that proves it lives.

It lies in the user's own folder (`private`), not beside the engine. It reads and writes; it starts and stops
nothing.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from tpforge.errors import EnvironmentUnusable
from tpforge.outputs.atomic import os_errors
from tpforge.records import Record
from triton_repo.serve.launched import ContainerName
from triton_repo.serve.ports import Ports
from triton_repo.serve.private import (
    make_private,
    private_folder,
    private_folders,
    read_private,
    write_private,
)
from triton_repo.serve.processes import MARK, REGIONS, ProcessId, all_processes, has_open, is_alive
from triton_repo.serve.security import Security
from triton_repo.serve.tritonserver import DRAIN_S

Phase = Literal["starting", "ready", "restarting", "stopping", "failed"]

STATE_FILE = "server.json"
LOG_FILE = "triton.log"
_LOCK_FILE = ".lock"
_LOCK_TIMEOUT_S = 3.0


class ServerState(Record):
    """What is known of a server; `message` is the last progress, or why it failed."""

    schema_version: Literal[1] = 1
    phase: Phase
    message: str
    exit_code: int | None = None
    """Of a failed one: which error the message is."""
    repository: Path
    host: str
    ports: Ports
    log: Path
    mark: str = Field(pattern=MARK)
    """In the environment of all its processes, the start of its shared memory, and its server id."""
    supervisor: ProcessId
    server: ProcessId | None = None
    container: ContainerName | None = None
    """What must be removed beside the processes."""
    shared_memory: str | None = Field(default=None, pattern=REGIONS)
    """Regions that must be, beside those of the mark."""
    security: Security = Security()
    drain_s: float = DRAIN_S
    """For how long requests in flight may go on at its end."""
    addresses: dict[str, str] = Field(default_factory=dict)
    """Where its companions are reached, by their names."""
    model: str | None = None
    """The name of the model of a server with an API of its own; None is a Triton."""
    api: Literal["openai", "trtllm-grpc"] = "openai"
    """That API, where it has a model's name."""
    restarts: int = 0
    last_failure: str | None = None
    seconds_to_ready: float | None = None


class _Kept(Record):
    """The content of server.json: the folder of the server, for lists, and what is known of it."""

    folder: Path
    state: ServerState


def state_file(state_dir: Path) -> Path:
    """Where the state of the server of a folder is kept."""
    return private_folder(state_dir) / STATE_FILE


def read_state(state_dir: Path) -> ServerState | None:
    """The state that was last written; None when there is none, or when it cannot be read.

    Raises:
        EnvironmentUnusable: it is there, and is not the caller's alone.
    """
    found = _read(state_file(state_dir))
    return found.state if found is not None and found.folder == state_dir.resolve() else None


def write_state(state_dir: Path, state: ServerState) -> None:
    """Replace the state file at once."""
    kept = _Kept(folder=state_dir.resolve(), state=state)
    write_private(make_private(state_dir) / STATE_FILE, kept.model_dump_json(indent=2) + "\n")


def remove_state(state_dir: Path) -> None:
    """Forget the server; its logs stay."""
    state_file(state_dir).unlink(missing_ok=True)


def known_folders() -> tuple[Path, ...]:
    """The folders of all servers of the user whose state is there, sorted."""
    found = (_read(folder / STATE_FILE) for folder in private_folders())
    return tuple(sorted(kept.folder for kept in found if kept is not None))


def is_supervised(state_dir: Path, state: ServerState) -> bool:
    """Whether the supervisor that a state names runs: proven by the folder's lock, which one alone holds."""
    return is_alive(state.supervisor) and has_open(state.supervisor, private_folder(state_dir) / _LOCK_FILE)


def unreadable_holder(state_dir: Path) -> ProcessId | None:
    """The process that holds a folder's lock while its state is there and says nothing to this version.

    Another version of tpforge may have written it, or somebody else. None too where a process that starts or
    stops a server has the lock for a moment.
    """
    path = state_file(state_dir)
    if read_private(path) is None or _read(path) is not None:
        return None
    lock = path.with_name(_LOCK_FILE)
    holders = [process for process in all_processes() if has_open(process, lock)]
    return min(holders, key=lambda process: process.start_ticks, default=None)


def _read(path: Path) -> _Kept | None:
    data = read_private(path)
    try:
        return None if data is None else _Kept.model_validate_json(data)
    except ValidationError:
        return None


@contextmanager
def exclusive(state_dir: Path) -> Iterator[None]:
    """Hold the folder's lock; the kernel drops it when this process ends, however it ends.

    Raises:
        EnvironmentUnusable: another process holds it, or the folder cannot be written.
    """
    with os_errors(state_dir):
        state_dir.mkdir(parents=True, exist_ok=True)
    flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(make_private(state_dir) / _LOCK_FILE, flags, 0o600)
    try:
        _lock(descriptor, state_dir)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, state_dir: Path) -> None:
    end = time.monotonic() + _LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            state = read_state(state_dir)
            # A supervisor that was killed holds the lock until its last thread has ended.
            if (state is not None and is_supervised(state_dir, state)) or time.monotonic() > end:
                raise EnvironmentUnusable(_already(state_dir)) from None
        time.sleep(0.05)


def _already(state_dir: Path) -> str:
    state = read_state(state_dir)
    where = f" on {state.host}:{state.ports.grpc} (gRPC)" if state else ""
    who = f", process {state.supervisor.pid}" if state else ""
    return f"{state_dir}: a server of this folder runs already{where}{who}; `tpforge stop` ends it"
