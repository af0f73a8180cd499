"""Serves a model repository with Triton on this machine: start, stop, status, list.

It decides between the foreground and a supervisor of its own; what that one does is in `supervisor`.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tpforge.errors import EnvironmentUnusable, InputRefused, TpforgeError
from tpforge.progress import Progress
from triton_repo.serve import processes, state, triton_log
from triton_repo.serve.companions import Companion
from triton_repo.serve.guard import module_command, module_environment
from triton_repo.serve.launched import LaunchedProgram
from triton_repo.serve.leftovers import clean_leftovers, clean_state
from triton_repo.serve.ports import Ports
from triton_repo.serve.private import make_private, open_log
from triton_repo.serve.security import Security
from triton_repo.serve.server_plan import ServerPlan
from triton_repo.serve.supervisor import Supervisor
from triton_repo.serve.tritonserver import DRAIN_S

SUPERVISOR_LOG = "supervisor.log"
_POLL_S = 0.1
_STOP_BEYOND_S = 30.0
"""How long a supervisor may take to end, beyond the time that requests in flight have."""
_KILL_TIMEOUT_S = 10.0

_REPLICA = re.compile(r"(?<=server)-([0-9]+)$")
"""How the folder of a further server of an engine ends."""

_detached: dict[int, subprocess.Popen[bytes]] = {}
"""The supervisors that this process started and that outlive it; kept so that they can be reaped."""


@dataclass(frozen=True)
class ServeOptions:
    """How a repository is served.

    `state_dir` holds the logs, one server at a time; under its name the state is kept in the user's own
    folder. `tritonserver` None is the one on PATH, else nvidia-pytriton's. `detach` leaves the server running
    under a supervisor of its own. With `launch` that command is run, and no tritonserver is looked for here.
    `drain_s` is how long requests in flight may go on when it is told to end. `companions` run beside it.
    """

    state_dir: Path
    ports: Ports = field(default_factory=Ports)
    host: str = "127.0.0.1"
    tritonserver: Path | None = None
    load_timeout_s: float = 300.0
    detach: bool = False
    security: Security = field(default_factory=Security)
    launch: LaunchedProgram | None = None
    drain_s: float = DRAIN_S
    companions: tuple[Companion, ...] = ()


@dataclass(frozen=True)
class Server:
    """A server that is, or was, ready."""

    repository: Path
    state_dir: Path
    host: str
    ports: Ports
    log: Path
    seconds_to_ready: float
    pid: int
    """Of its supervisor."""
    security: Security = field(default_factory=Security)
    addresses: Mapping[str, str] = field(default_factory=dict)
    """Where its companions are reached, by their names."""
    model: str | None = None
    """The name of the model of a server with an API of its own; None is a Triton."""
    api: Literal["triton", "openai", "trtllm-grpc"] = "triton"

    @property
    def url(self) -> str:
        """What its clients want: HTTP's where it has OpenAI's API itself, else gRPC's."""
        return self.http_url if self.api == "openai" else self.grpc_url

    @property
    def grpc_url(self) -> str:
        """What a gRPC client of a Triton wants."""
        return f"{reachable(self.host)}:{self.ports.grpc}"

    @property
    def http_url(self) -> str:
        """The base of the HTTP endpoints."""
        return f"http://{reachable(self.security.http_host(self.host))}:{self.ports.http}"

    @property
    def metrics_url(self) -> str:
        """Where Prometheus would look."""
        if self.model is not None:
            return f"{self.http_url}/prometheus/metrics"
        return f"http://{reachable(self.security.http_host(self.host))}:{self.ports.metrics}/metrics"


@dataclass(frozen=True)
class Status:
    """What is known of the server of a folder.

    `phase` is the supervisor's (starting, ready, restarting, stopping, failed), or ``stopped`` when there is
    none, or ``crashed`` when the supervisor was killed and its state file stayed, or ``unreadable`` when it
    runs and its state file is of another version or damaged.
    """

    state_dir: Path
    phase: str
    message: str
    server: Server | None = None
    restarts: int = 0
    last_failure: str | None = None

    @property
    def is_running(self) -> bool:
        """Whether a supervisor is there."""
        return self.phase not in ("stopped", "crashed", "failed")


def serve(
    repository: Path,
    *,
    options: ServeOptions,
    progress: Progress,
    on_ready: Callable[[Server], None] | None = None,
) -> Server:
    """Serve a repository; `on_ready` is called once it answers.

    Detached, it returns then. In the foreground it returns when Ctrl-C, SIGTERM or `stop` ended the server.

    Raises:
        EnvironmentUnusable: a port is in use, no tritonserver, a wrong Python, the load timeout exceeded.
        InputRefused: the repository is none, or a model does not load: with the log's own reason.
    """
    for warning in options.security.warnings(options.host):
        progress(f"warning: {warning}")
    run = _serve_detached if options.detach else _serve_in_foreground
    return run(_plan(repository, options), progress, on_ready or (lambda _server: None))


def stop(state_dir: Path) -> Status:
    """End the server of a folder, and what a killed supervisor left; the status that it had.

    Raises:
        EnvironmentUnusable: it belongs to another user, or does not end.
    """
    before = status(state_dir)
    if (holder := state.unreadable_holder(state_dir)) is not None:
        _end_supervisor(holder, drain_s=DRAIN_S)  # It ends what it started, or its guard does.
    found = state.read_state(state_dir)
    if found is None:
        return before
    if state.is_supervised(state_dir, found):
        _end_supervisor(found.supervisor, drain_s=found.drain_s)
    if child := _detached.pop(found.supervisor.pid, None):
        child.wait()
    clean_state(found, state_dir)
    return before


def _end_supervisor(supervisor: processes.ProcessId, *, drain_s: float) -> None:
    if not processes.send_signal(supervisor, signal.SIGTERM):
        return
    if not processes.wait_gone(supervisor, timeout_s=drain_s + _STOP_BEYOND_S):
        processes.send_signal(supervisor, signal.SIGKILL)
    if not processes.wait_gone(supervisor, timeout_s=_KILL_TIMEOUT_S):
        raise EnvironmentUnusable(f"process {supervisor.pid} does not end though it was killed")


def status(state_dir: Path) -> Status:
    """What runs in a folder; a pid that another process has by now is not mistaken for it."""
    found = state.read_state(state_dir)
    if found is None and (holder := state.unreadable_holder(state_dir)) is not None:
        message = (
            f"process {holder.pid} runs a server here and its state cannot be read; `tpforge stop` ends it"
        )
        return Status(state_dir, "unreadable", message)
    if found is None:
        return Status(state_dir, "stopped", "no server runs here")
    server = _server(state_dir, found)
    if found.phase != "failed" and not state.is_supervised(state_dir, found):
        message = "its supervisor was killed; `tpforge stop` removes what it left"
        return Status(state_dir, "crashed", message, server, found.restarts, found.last_failure)
    return Status(state_dir, found.phase, found.message, server, found.restarts, found.last_failure)


def list_servers(root: Path) -> tuple[Status, ...]:
    """The servers whose folders lie under `root` (ROOT/NAME/server, server-2, ...), by path."""
    here = root.resolve()
    found = [path for path in state.known_folders() if path.parent.parent == here]
    found = [path for path in found if first_of(path).name == "server"]
    return tuple(status(root / path.parent.name / path.name) for path in found)


def replicas_of(state_dir: Path) -> tuple[Status, ...]:
    """The further servers of the engine whose first one has this folder, by number."""
    here = state_dir.resolve()
    found = [path for path in state.known_folders() if path != here and first_of(path) == here]
    return tuple(status(state_dir.with_name(path.name)) for path in sorted(found, key=number_of))


def first_of(state_dir: Path) -> Path:
    """The folder of the first server of the engine whose first or further one has `state_dir`."""
    return state_dir.with_name(_REPLICA.sub("", state_dir.name))


def number_of(state_dir: Path) -> int:
    """Which of the servers of its engine has this folder; the first is 1."""
    found = _REPLICA.search(state_dir.name)
    return int(found[1]) if found else 1


def _plan(repository: Path, options: ServeOptions) -> ServerPlan:
    return ServerPlan(
        repository=repository.absolute(),
        state_dir=options.state_dir.absolute(),
        ports=options.ports,
        host=options.host,
        tritonserver=options.tritonserver.absolute() if options.tritonserver else None,
        load_timeout_s=options.load_timeout_s,
        security=options.security.absolute(),
        launch=options.launch,
        drain_s=options.drain_s,
        companions=tuple(item.absolute() for item in options.companions),
    )


def _serve_in_foreground(plan: ServerPlan, progress: Progress, on_ready: Callable[[Server], None]) -> Server:
    ready: list[Server] = []

    def note(found: state.ServerState) -> None:
        ready.append(_server(plan.state_dir, found))
        on_ready(ready[0])

    try:
        Supervisor(plan, progress=progress, on_ready=note).run()
    except TpforgeError:
        _forget_start(plan.state_dir, os.getpid())
        raise
    if not ready:
        raise EnvironmentUnusable("stopped before the server was ready")
    return ready[0]


def _serve_detached(plan: ServerPlan, progress: Progress, on_ready: Callable[[Server], None]) -> Server:
    with state.exclusive(plan.state_dir):  # Nobody else's state, and what a killed one left is gone.
        clean_leftovers(plan.state_dir)
    child = _spawn_supervisor(plan)
    try:
        found = _await_ready(plan, child, progress)
    except BaseException:
        # Interrupted, or failed: nothing stays behind.
        if child.poll() is None:
            child.terminate()
            child.wait()
        raise
    _detached[child.pid] = child
    server = _server(plan.state_dir, found)
    on_ready(server)
    return server


def _forget_start(state_dir: Path, supervisor_pid: int) -> None:
    """Forget a server that never was ready: whoever started it is told why, and nothing can be stopped."""
    found = state.read_state(state_dir)
    if found is None or found.supervisor.pid != supervisor_pid or found.phase != "failed":
        return
    if found.seconds_to_ready is None:
        state.remove_state(state_dir)


def _spawn_supervisor(plan: ServerPlan) -> subprocess.Popen[bytes]:
    log_file = plan.state_dir / SUPERVISOR_LOG
    with open_log(log_file) as log:
        return subprocess.Popen(
            module_command("triton_repo.serve.supervisor", plan.model_dump_json()),
            cwd=make_private(plan.state_dir),
            env=module_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _await_ready(plan: ServerPlan, child: subprocess.Popen[bytes], progress: Progress) -> state.ServerState:
    said = ""
    while True:
        return_code = child.poll()
        found = state.read_state(plan.state_dir)
        if found is not None and found.supervisor.pid == child.pid:
            if found.phase == "ready":
                return found
            if found.phase == "failed":
                child.wait()
                _forget_start(plan.state_dir, child.pid)
                raise _failure(found)
            if found.message != said:
                said = found.message
                progress(said)
        if return_code is not None:
            log = plan.state_dir / SUPERVISOR_LOG
            last = triton_log.last_lines(triton_log.read_log(log))[-1:]
            raise EnvironmentUnusable(
                f"the supervisor ended with exit status {return_code}: {''.join(last)} (see {log})"
            )
        time.sleep(_POLL_S)


def _failure(found: state.ServerState) -> TpforgeError:
    """The supervisor's error as it was raised there."""
    kind = InputRefused if found.exit_code == InputRefused.exit_code else EnvironmentUnusable
    return kind(found.message)


def _server(state_dir: Path, found: state.ServerState) -> Server:
    return Server(
        repository=found.repository,
        state_dir=state_dir,
        host=found.host,
        ports=found.ports,
        log=found.log,
        seconds_to_ready=found.seconds_to_ready or 0.0,
        pid=found.supervisor.pid,
        security=found.security,
        addresses=found.addresses,
        model=found.model,
        api="triton" if found.model is None else found.api,
    )


def reachable(host: str) -> str:
    """The address by which a client on this machine reaches a server that listens on `host`."""
    return "localhost" if host in ("0.0.0.0", "::", "127.0.0.1") else host
