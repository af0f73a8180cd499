"""Programs beside a server, such as a front of another protocol: started when it is ready, and again.

One that ends does not end the server. It knows none of them: `ServeOptions.companions` says what they are.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tpforge.errors import EnvironmentUnusable
from tpforge.progress import Progress
from tpforge.records import Record
from tpforge.system.opener import read_url
from triton_repo.serve import processes, triton_log
from triton_repo.serve.ports import NamedPort, is_listened_on
from triton_repo.serve.private import open_log
from triton_repo.serve.readiness import Stopped, exit_text

_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 10.0
_QUIET_S = 60.0
"""A companion that ran for so long is started at once when it ends."""


class Proof(Record):
    """A request that a companion must answer with HTTP 200 before the server is called ready.

    `roots` are the certificates that prove it over https, where the system's do not.
    """

    url: str
    roots: Path | None = None
    body: dict[str, str | int | float] | None = None
    timeout_s: float = 10.0


class Companion(Record):
    """A program, the ports that it listens on, and where clients find it.

    `follows` is one that is of no use without the server: it is ended when the server is, and started again
    with it. `address` is shown to people.
    """

    name: str
    words: tuple[str, ...]
    environment: dict[str, str]
    log: Path
    ports: tuple[NamedPort, ...] = ()
    follows: bool = False
    proof: Proof | None = None
    address: str | None = None
    drain_s: float = 10.0

    def absolute(self) -> Companion:
        """The same, for a process in another folder."""
        return self.model_copy(update={"log": self.log.absolute()})


def companions_mark(mark: str) -> str:
    """The mark of the companions of a server: ending all of the server must not end them."""
    return f"{mark}-beside"


class Companions:
    """The companions of one server, for its supervisor's thread; `look` never waits."""

    def __init__(
        self, companions: tuple[Companion, ...], *, mark: str, cwd: Path, progress: Progress
    ) -> None:
        self._all, self._mark, self._cwd, self._progress = companions, companions_mark(mark), cwd, progress
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._begun: dict[str, float] = {}
        self._next: dict[str, float] = {}
        self._pauses: dict[str, float] = {}

    def start(self) -> None:
        """Start those that do not run."""
        for companion in self._all:
            if companion.name not in self._running:
                self._start(companion)

    def wait_ready(self, *, timeout_s: float, is_stopped: Callable[[], bool]) -> None:
        """Return when each listens on its ports and has proven that it answers.

        Raises:
            Stopped: `is_stopped` said so.
            EnvironmentUnusable: one ended, or has not answered in time; with the end of its log.
        """
        end = time.monotonic() + timeout_s
        for companion in self._all:
            problem = _problem(companion)
            while problem is not None:
                if is_stopped():
                    raise Stopped
                for other in self._all:
                    code = self._running[other.name].poll()
                    if code is not None:
                        raise EnvironmentUnusable(f"its {other.name} {exit_text(code)}; {_end_of(other.log)}")
                if time.monotonic() > end:
                    raise EnvironmentUnusable(
                        f"its {companion.name}: not ready within {timeout_s:g} s: {problem}; "
                        f"{_end_of(companion.log)}"
                    )
                time.sleep(_PAUSE_S)
                problem = _problem(companion)

    def look(self) -> None:
        """Start again what has ended, the sooner the longer it ran."""
        now = time.monotonic()
        for companion in self._all:
            process = self._running.get(companion.name)
            if process is not None and (code := process.poll()) is not None:
                del self._running[companion.name]
                ran_s = now - self._begun[companion.name]
                pause_s = self._pauses.get(companion.name, 0.0) if ran_s < _QUIET_S else 0.0
                self._pauses[companion.name] = min(max(2 * pause_s, 0.5), _LONGEST_PAUSE_S)
                self._next[companion.name] = now + pause_s
                self._progress(f"its {companion.name} {exit_text(code)}; starting it again")
            elif process is None and now >= self._next.get(companion.name, now):
                self._start(companion)

    def end_followers(self) -> None:
        """End at once those that are of no use without the server."""
        for companion in self._all:
            process = self._running.pop(companion.name, None) if companion.follows else None
            if process is not None:
                process.kill()
                process.wait()

    def drain(self, *, is_hurried: Callable[[], bool]) -> None:
        """End all in order, the last one first, each with time for what it has in hand."""
        for companion in reversed(self._all):
            process = self._running.pop(companion.name, None)
            if process is None:
                continue
            process.terminate()
            end = time.monotonic() + companion.drain_s
            while process.poll() is None and time.monotonic() < end and not is_hurried():
                time.sleep(0.05)
            process.kill()
            process.wait()

    def kill(self) -> None:
        """End all at once, and what they started."""
        for process in self._running.values():
            process.kill()
            process.wait()
        self._running.clear()
        if self._all:
            processes.kill_marked(self._mark)

    def _start(self, companion: Companion) -> None:
        with open_log(companion.log) as log:
            self._running[companion.name] = processes.spawn_tied(
                list(companion.words),
                environment={**os.environ, **companion.environment, processes.MARK_VARIABLE: self._mark},
                cwd=self._cwd,
                log=log,
            )
        self._begun[companion.name] = time.monotonic()


def _problem(companion: Companion) -> str | None:
    """Where it does not listen yet, or why its request is not answered; None when it is ready."""
    silent = [port for port in companion.ports if not is_listened_on(port)]
    if silent:
        return f"nothing listens on port {silent[0].port} ({silent[0].name})"
    proof = companion.proof
    if proof is None:
        return None
    body = None if proof.body is None else json.dumps(proof.body).encode()
    try:
        read_url(
            proof.url,
            timeout_s=proof.timeout_s,
            method="GET" if body is None else "POST",
            body=body,
            headers={"Content-Type": "application/json"},
            roots=proof.roots,
        )
    except OSError as error:
        return str(error)
    return None


def _end_of(log: Path) -> str:
    lines = "\n  ".join(triton_log.last_lines(triton_log.read_log(log)))
    return f"the end of {log}:\n  {lines}"
