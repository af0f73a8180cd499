"""server.json: what a supervisor says about its server, and the lock that proves it lives.

It reads and writes; it starts and stops nothing.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from tpforge.atomic import os_errors, write_atomic
from tpforge.errors import EnvironmentUnusable
from tpforge.records import Record
from triton_repo.serve.launched import ContainerName
from triton_repo.serve.ports import Ports
from triton_repo.serve.processes import ProcessId, is_alive
from triton_repo.serve.security import Security

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
    mark: str
    """In the environment of all its processes, the start of its shared memory, and its server id."""
    supervisor: ProcessId
    server: ProcessId | None = None
    container: ContainerName | None = None
    """What must be removed beside the processes."""
    shared_memory: str | None = None
    """Regions that must be, beside those of the mark."""
    security: Security = Security()
    restarts: int = 0
    last_failure: str | None = None
    seconds_to_ready: float | None = None


def read_state(state_dir: Path) -> ServerState | None:
    """The state that was last written; None when there is none, or when it cannot be read."""
    try:
        return ServerState.model_validate_json((state_dir / STATE_FILE).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None


def write_state(state_dir: Path, state: ServerState) -> None:
    """Replace the state file at once."""
    write_atomic(state_dir / STATE_FILE, state.model_dump_json(indent=2) + "\n")


def remove_state(state_dir: Path) -> None:
    """Forget the server; its logs stay."""
    (state_dir / STATE_FILE).unlink(missing_ok=True)


@contextmanager
def exclusive(state_dir: Path) -> Iterator[None]:
    """Hold the folder's lock; the kernel drops it when this process ends, however it ends.

    Raises:
        EnvironmentUnusable: another process holds it, or the folder cannot be written.
    """
    with os_errors(state_dir):
        state_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(state_dir / _LOCK_FILE, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
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
            if (state is not None and is_alive(state.supervisor)) or time.monotonic() > end:
                raise EnvironmentUnusable(_already(state_dir)) from None
        time.sleep(0.05)


def _already(state_dir: Path) -> str:
    state = read_state(state_dir)
    where = f" on {state.host}:{state.ports.grpc} (gRPC)" if state else ""
    who = f", process {state.supervisor.pid}" if state else ""
    return f"{state_dir}: a server of this folder runs already{where}{who}; `tpforge stop` ends it"
