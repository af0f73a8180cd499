"""Whether the model of a server that runs makes progress, asked again and again by the canary script.

A process that is alive can be stuck. It restarts nothing: `supervisor` does. The script is that of the
deployments, so that a server here and one in a cluster are judged alike.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Protocol

from triton_repo.serve.guard import module_command, module_environment
from triton_repo.serve.launched import LaunchedProgram
from triton_repo.serve.ports import Ports
from triton_repo.serve.readiness import CANARY_MODELS

_SCRIPTS = Path(__file__).parents[1] / "deploy" / "templates" / "common"
CANARY, OPENAI_CANARY = _SCRIPTS / "canary.py", _SCRIPTS / "canary_openai.py"
TIMEOUT_S = 15.0
UNCOUNTED_TIMEOUT_S = 60.0
"""Where nothing counts the model's steps, a token has to come: a busy server may take long for that."""
EVERY_S = 10.0
NUM_FAILURES = 3
"""A stuck model is found within 3 x 15 s of asking and what lies between, where its steps are counted."""

_NO_PROGRESS = 1
"""The script's exit status when it reached the server."""
_PAUSE_AFTER_FAILURE_S = 1.0


class Asking(Protocol):
    """A run of the script."""

    @property
    def stderr(self) -> IO[str] | None:
        """Its reason."""

    def poll(self) -> int | None:
        """Its exit status, once it has one."""

    def kill(self) -> None:
        """End it."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""


class Heartbeat:
    """Asks whenever it is time; `problem` never waits."""

    def __init__(self, start: Callable[[], Asking], *, now: Callable[[], float]) -> None:
        self._start, self._now = start, now
        self._asking: Asking | None = None
        self._next = now()
        self._got_through = False
        self._num_failures = 0
        self._reason = ""

    def problem(self) -> str | None:
        """Why the model is stuck, once it was seen to make no progress often enough; else None."""
        if self._asking is None:
            if self._now() >= self._next:
                self._begin()
            return None
        status = self._asking.poll()
        if status is None:  # The script ends by itself, within its timeout.
            return None
        said = self._asking.stderr.read() if self._asking.stderr else ""
        self._asking.wait()
        self._asking = None
        # A script that never got through, such as behind a firewall, is no proof of anything.
        self._got_through = self._got_through or status in (0, _NO_PROGRESS)
        self._num_failures = self._num_failures + 1 if status and self._got_through else 0
        self._reason = said.strip()
        self._next = self._now() + (_PAUSE_AFTER_FAILURE_S if status else EVERY_S)
        if self._num_failures < NUM_FAILURES:
            return None
        return f"the model makes no progress, asked {NUM_FAILURES} times: {self._reason}"

    def _begin(self) -> None:
        try:
            self._asking = self._start()
        except OSError:  # No process can be started now, which says nothing of the model.
            self._next = self._now() + EVERY_S

    def close(self) -> None:
        """End what is under way; the server that is asked next begins without failures."""
        self._num_failures, self._next = 0, self._now()
        if self._asking is not None:
            self._asking.kill()
            self._asking.wait()
            self._asking = None


def heartbeat_of(
    ports: Ports, *, host: str, launch: LaunchedProgram | None, models: Sequence[str]
) -> Heartbeat | None:
    """Of Triton's ensemble, or of a server with an API of its own; other programs are taken at their word."""
    if launch is not None and (model := launch.model) is not None:
        if launch.api == "trtllm-grpc":
            return Heartbeat(lambda: start_grpc_canary(ports, host=host), now=time.monotonic)
        counts = launch.counts_steps
        return Heartbeat(
            lambda: start_openai_canary(ports, host=host, model=model, counts_steps=counts),
            now=time.monotonic,
        )
    if launch is not None or CANARY_MODELS[0] not in models:
        return None
    return Heartbeat(lambda: start_canary(ports, host=host, model=CANARY_MODELS[0]), now=time.monotonic)


def start_grpc_canary(ports: Ports, *, host: str) -> subprocess.Popen[str]:
    """Ask the server with trtllm-serve's gRPC that listens on `host`, on this machine."""
    url = f"{_reached(host)}:{ports.grpc}"
    words = module_command("triton_repo.trtllm_serve.canary", url, str(UNCOUNTED_TIMEOUT_S))
    return _popen(words, env=module_environment())


def start_canary(ports: Ports, *, host: str, model: str) -> subprocess.Popen[str]:
    """Ask the server that listens on `host`, on this machine."""
    place = _reached(host)
    return _start(
        *(str(CANARY), "--alive", "--model", model, "--timeout", str(TIMEOUT_S)),
        *("--url", f"http://{place}:{ports.http}", "--metrics", f"http://{place}:{ports.metrics}/metrics"),
    )


def start_openai_canary(ports: Ports, *, host: str, model: str, counts_steps: bool) -> subprocess.Popen[str]:
    """Ask the server with OpenAI's API that listens on `host`, on this machine."""
    timeout_s = TIMEOUT_S if counts_steps else UNCOUNTED_TIMEOUT_S
    url = f"http://{_reached(host)}:{ports.http}"
    return _start(str(OPENAI_CANARY), "--alive", "--model", model, "--timeout", str(timeout_s), "--url", url)


def _reached(host: str) -> str:
    """The address by which a server that listens on `host` is reached from here."""
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)


def _start(*words: str) -> subprocess.Popen[str]:
    return _popen([sys.executable, "-I", "-S", *words], env=None)


def _popen(words: list[str], *, env: dict[str, str] | None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
    )
