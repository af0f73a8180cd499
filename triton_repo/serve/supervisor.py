"""Keeps one tritonserver running: starts it, watches it and its model processes, starts it again.

When a model process dies, Triton leaves streams hanging and goes on saying "ready": the supervisor kills
the server, so that requests in flight fail at once, and starts it anew. ``python -m`` this file with a
ServerPlan as JSON is the detached supervisor. `local` is the way in.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from tpforge.errors import EnvironmentUnusable, TpforgeError
from tpforge.outputs.atomic import os_errors
from tpforge.progress import Progress
from tpforge.units import format_seconds
from triton_repo.serve import processes, state, triton_log
from triton_repo.serve.companions import Companions, companions_mark
from triton_repo.serve.guard import guarded
from triton_repo.serve.heartbeat import Heartbeat, heartbeat_of
from triton_repo.serve.interpreter import check_interpreter
from triton_repo.serve.leftovers import TEMPORARY, clean, clean_leftovers
from triton_repo.serve.ports import refuse_used
from triton_repo.serve.private import open_log, private_folder
from triton_repo.serve.readiness import (
    Stalled,
    Start,
    Stopped,
    describe_end,
    models_of,
    wait_ready,
)
from triton_repo.serve.server_plan import ServerPlan
from triton_repo.serve.tritonserver import (
    find_tritonserver,
    make_room_for_files,
    plain_path,
    prepare_backends,
    server_command,
    server_environment,
)

WATCH_S = 0.2
MAX_FAILURES = 5
FAILURE_WINDOW_S = 300.0
_CHANCES = 2
_GRACE_S = 5.0
"""How long a server may take to end by itself, beyond the time that requests in flight have."""


class Supervisor:
    """One server from its start to its end; `run` returns when it was asked to stop."""

    def __init__(
        self, plan: ServerPlan, *, progress: Progress, on_ready: Callable[[state.ServerState], None]
    ) -> None:
        self._plan, self._progress, self._on_ready = plan, progress, on_ready
        self._num_stops = 0
        self._heartbeat: Heartbeat | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._failures: deque[float] = deque(maxlen=MAX_FAILURES)
        self._mark = f"tpforge-{uuid.uuid4().hex[:12]}"
        self._log = plan.state_dir / state.LOG_FILE
        self._private = private_folder(plan.state_dir)
        self._temporary = self._private / TEMPORARY
        self._companions = Companions(plan.companions, mark=self._mark, cwd=self._private, progress=progress)

    def run(self) -> None:
        """Serve until `stop` or a signal.

        Raises:
            EnvironmentUnusable: ports, binary or interpreter cannot be used, or the server keeps failing.
            InputRefused: the repository holds no model, or one that does not load.
        """
        plan = self._plan
        beside = guarded(companions_mark(self._mark)) if plan.companions else nullcontext()
        with state.exclusive(plan.state_dir), self._signals(), guarded(self._mark), beside:
            clean_leftovers(plan.state_dir)
            try:
                self._prepare()
                self._serve()
            except Stopped:
                self._shut_down()
            except TpforgeError as error:
                self._write("failed", str(error), exit_code=error.exit_code)
                raise
            finally:
                self._companions.kill()
                self._kill()
            state.remove_state(plan.state_dir)

    def stop(self) -> None:
        """Ask for an orderly end; asked a second time, everything is killed at once."""
        self._num_stops += 1

    def _prepare(self) -> None:
        plan = self._plan
        me = processes.identify(os.getpid())
        assert me is not None
        self._state = state.ServerState(
            phase="starting",
            message="starting",
            repository=plan.repository,
            host=plan.host,
            ports=plan.ports,
            log=self._log,
            mark=self._mark,
            supervisor=me,
            security=plan.security,
            drain_s=plan.drain_s + sum(item.drain_s for item in plan.companions),
            container=plan.launch.container if plan.launch else None,
            shared_memory=plan.launch.shared_memory if plan.launch else None,
            addresses={item.name: item.address for item in plan.companions if item.address},
            model=plan.launch.model if plan.launch else None,
            api=plan.launch.api if plan.launch else "openai",
        )
        self._models = models_of(plan.repository) if self._state.model is None else ()
        others = [port for companion in plan.companions for port in companion.ports]
        refuse_used(plan.ports, host=plan.host, others=others)
        with os_errors(self._log):
            if self._log.exists():
                self._log.replace(self._log.with_name(f"{self._log.name}.1"))
        if plan.launch is None:
            self._prepare_tritonserver()
            return
        self._command = plan.security.fill_key(plan.launch.command(self._mark))
        self._environment = plan.launch.marked_environment(self._mark)
        self._progress(f"starting {plan.launch.program}")

    def _prepare_tritonserver(self) -> None:
        plan = self._plan
        make_room_for_files()
        server = find_tritonserver(plan.tritonserver)
        if server.is_wheel:
            check_interpreter()
        backends = prepare_backends(server, self._private / "backends")
        if backends is not None and shlex.quote(str(backends)) != str(backends):
            backends = Path(backends.name)  # Relative to the folder in which the server runs.
        self._command = server_command(
            server,
            repository=plain_path(plan.repository, beside=self._private, name="repository"),
            backends=backends,
            host=plan.host,
            ports=plan.ports,
            mark=self._mark,
            security=plan.security,
            drain_s=plan.drain_s,
        )
        self._environment = server_environment(server, mark=self._mark, temporary=self._temporary)
        self._progress(f"starting {server.binary.name} of {server.origin}")

    def _serve(self) -> NoReturn:
        """Start, watch, start again, until Stopped or another error ends it."""
        while True:
            begun, memory_kills = time.monotonic(), processes.num_memory_kills()
            start = self._start()
            try:
                self._wait_ready(start)
                self._start_companions()
            except TpforgeError as error:
                cause = f"{error}{processes.memory_note(memory_kills)}"
                if self._state.seconds_to_ready is None and not self._may_be_chance(error):
                    # It has never worked: trying again would only hide why.
                    raise type(error)(cause) from error
            else:
                self._say_ready(time.monotonic() - begun)
                cause = self._watch(start) + processes.memory_note(memory_kills)
            self._restart_after(cause)

    def _may_be_chance(self, error: TpforgeError) -> bool:
        """Whether a first start failed of what the next need not: a death is believed twice, a hang once."""
        if isinstance(error, Stalled):
            return not self._failures
        return triton_log.DIES_BY_CHANCE in str(error) and len(self._failures) < _CHANCES

    def _start_companions(self) -> None:
        """Start those that do not run; the first time, until each answers."""
        self._companions.start()
        if self._state.seconds_to_ready is None and self._plan.companions:
            self._report(f"starting {', '.join(item.name for item in self._plan.companions)}")
            self._companions.wait_ready(timeout_s=self._plan.load_timeout_s, is_stopped=self._is_stopped)

    def _wait_ready(self, start: Start) -> None:
        if self._state.model is None:
            wait_ready(start, progress=self._report, is_stopped=self._is_stopped)
            return
        # Imported here: its client is of no use to a supervisor of Triton.
        from triton_repo.trtllm_serve.readiness import wait_generates

        wait_generates(
            start,
            model=self._state.model,
            api=self._state.api,
            progress=self._report,
            is_stopped=self._is_stopped,
        )

    def _start(self) -> Start:
        plan = self._plan
        self._temporary.mkdir(exist_ok=True)
        with open_log(self._log) as log:
            log_start = log.tell()
            self._process = processes.spawn_tied(
                self._command, environment=self._environment, cwd=self._private, log=log
            )
        self._write(self._state.phase, self._state.message, server=processes.identify(self._process.pid))
        return Start(
            process=self._process,
            url=f"{plan.host}:{plan.ports.grpc}",
            mark=plan.launch.server_id if plan.launch else self._mark,
            models=self._models,
            log=self._log,
            log_start=log_start,
            load_timeout_s=plan.load_timeout_s,
            security=plan.security,
            program=plan.launch.program if plan.launch else "tritonserver",
            http_url=f"http://{plan.security.http_host(plan.host)}:{plan.ports.http}"
            if plan.launch
            else None,
            is_watched=plan.launch is None,
        )

    def _say_ready(self, seconds: float) -> None:
        is_first = self._state.seconds_to_ready is None
        self._write("ready", f"ready after {format_seconds(seconds)}", seconds_to_ready=round(seconds, 2))
        if is_first:  # Also after starts that failed by chance.
            self._on_ready(self._state)
        else:
            self._progress(f"ready again after {format_seconds(seconds)}")

    def _watch(self, start: Start) -> str:
        """Look at the server and its model processes until one ends or is stuck; which one, and how."""
        if self._heartbeat is None:
            self._heartbeat = heartbeat_of(
                self._plan.ports,
                host=self._plan.security.http_host(self._plan.host),
                launch=self._plan.launch,
                models=self._models,
            )
        heartbeat = self._heartbeat
        try:
            return self._watch_with(heartbeat, start)
        finally:
            if heartbeat is not None:
                heartbeat.close()

    def _watch_with(self, heartbeat: Heartbeat | None, start: Start) -> str:
        models = processes.ModelProcesses(start.process.pid)
        while True:
            if self._is_stopped():
                raise Stopped
            return_code = start.process.poll()
            if return_code is not None:
                return describe_end(start, return_code=return_code)
            if ended := models.ended():
                return ended
            if heartbeat is not None and (problem := heartbeat.problem()):
                return problem
            self._companions.look()
            time.sleep(WATCH_S)

    def _restart_after(self, cause: str) -> None:
        """Kill what is left, so that requests in flight fail, and wait a little longer each time.

        Raises:
            EnvironmentUnusable: it failed too often in a short time.
        """
        self._companions.end_followers()
        self._kill()
        now = time.monotonic()
        self._failures.append(now)
        recent = [moment for moment in self._failures if now - moment < FAILURE_WINDOW_S]
        if len(recent) >= MAX_FAILURES:
            raise EnvironmentUnusable(
                f"the server failed {len(recent)} times within {format_seconds(FAILURE_WINDOW_S)}; "
                f"the last time:\n  {cause}"
            )
        pause_s = back_off_s(len(recent))
        self._write(
            "restarting", f"restarting: {cause}", restarts=self._state.restarts + 1, last_failure=cause
        )
        self._progress(f"{cause}; starting again")
        end = time.monotonic() + pause_s
        while time.monotonic() < end:
            if self._is_stopped():
                raise Stopped
            time.sleep(WATCH_S)

    def _shut_down(self) -> None:
        """Let a server that is ready end in order, for requests in flight; another one has none."""
        was_ready = self._state.phase == "ready"
        self._report_phase("stopping")
        process = self._process
        if process is None or not was_ready:
            return
        self._companions.drain(is_hurried=lambda: self._num_stops > 1)
        process.terminate()
        end = time.monotonic() + self._plan.drain_s + _GRACE_S
        while process.poll() is None and time.monotonic() < end and self._num_stops <= 1:
            time.sleep(0.05)

    def _kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
        if self._process is not None:
            self._process.wait()
        launch = self._plan.launch
        # Before it was started there is none, and docker itself may be missing.
        started = launch if self._process is not None else None
        clean(
            self._mark,
            self._plan.state_dir,
            container=started.container if started else None,
            shared_memory=started.shared_memory if started else None,
        )

    def _is_stopped(self) -> bool:
        return self._num_stops > 0

    def _report(self, message: str) -> None:
        self._write(self._state.phase, message)
        self._progress(message)

    def _report_phase(self, phase: state.Phase) -> None:
        self._write(phase, phase)
        self._progress(phase)

    def _write(self, phase: state.Phase, message: str, **changes: Any) -> None:
        self._state = self._state.model_copy(update={"phase": phase, "message": message, **changes})
        state.write_state(self._plan.state_dir, self._state)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGINT, SIGTERM and SIGHUP stop the server while the block runs; an ignored one stays ignored."""

        def handle(_number: int, _frame: FrameType | None) -> None:
            self.stop()

        # Under nohup a hang-up is nothing to end by, nor is Ctrl-C behind a shell without job control.
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
        previous = {number: signal.signal(number, handle) for number in heard}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def back_off_s(num_failures: int) -> float:
    """Seconds before the next start: none after the first failure, then 2, 4, 8."""
    return 0.0 if num_failures <= 1 else float(2 ** (num_failures - 1))


def main(arguments: list[str]) -> int:
    """Be the detached supervisor of the plan given as JSON; failures are told by the state file."""
    plan = ServerPlan.model_validate_json(arguments[0])

    def say(message: str) -> None:
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}", flush=True)

    try:
        Supervisor(plan, progress=say, on_ready=lambda ready: say(ready.message)).run()
    except TpforgeError as error:
        say(f"error: {error}")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
