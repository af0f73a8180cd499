"""When a server that was started is ready, proven: its own process, all its models, one real answer.

Triton's word is not enough: a port may be another server's, a dead model stays "ready", and a model whose
initialize hangs never opens the port (`stalled` finds it). It watches one start; `supervisor` decides what
follows.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpforge.errors import EnvironmentUnusable, InputRefused, TpforgeError
from tpforge.progress import Progress
from tpforge.trtllm.causes import explain
from tpforge.units import format_seconds
from triton_repo.serve import processes, triton_log
from triton_repo.serve.launched import generate_one
from triton_repo.serve.security import Security
from triton_repo.serve.stalled import StartWatch, show_stacks

if TYPE_CHECKING:
    from triton_repo.client.client import Client

CANARY_MODELS = ("ensemble", "tensorrt_llm_bls")
CANARY_PROMPT = "Hello"
LLMAPI_MODEL = "tensorrt_llm"
_POLL_S = 0.1
_ASK_DEADLINE_S = 5.0
_PROGRESS_S = 5.0


class Stopped(Exception):
    """The start was called off."""


class Stalled(EnvironmentUnusable):
    """The server hangs while it starts, or before its first answer; the next start need not."""


@dataclass(frozen=True)
class Start:
    """A server that was just started, and how to recognize it: it answers with the id `mark`.

    `program` is what was started; `http_url` is given where a model of the `llmapi` contract is to be asked.
    `is_watched` is one whose models all load on this machine, in processes below it: there a hang shows.
    """

    process: subprocess.Popen[bytes]
    url: str
    mark: str
    models: tuple[str, ...]
    log: Path
    log_start: int
    load_timeout_s: float
    security: Security = field(default_factory=Security)
    program: str = "tritonserver"
    http_url: str | None = None
    is_watched: bool = False

    def read_log(self) -> str:
        """What this start has written so far."""
        return triton_log.read_log(self.log, start=self.log_start)


def models_of(repository: Path) -> tuple[str, ...]:
    """The models that a repository holds, sorted.

    Raises:
        InputRefused: it is no folder, or holds no model: Triton would call an empty one ready.
    """
    if not repository.is_dir():
        raise InputRefused(f"{repository}: is not a folder; `tpforge render ENGINE` makes a model repository")
    models = tuple(sorted(path.parent.name for path in repository.glob("*/config.pbtxt")))
    if not models:
        raise InputRefused(
            f"{repository}: holds no model (MODEL/config.pbtxt); `tpforge render ENGINE` makes a repository"
        )
    return models


def wait_ready(start: Start, *, progress: Progress, is_stopped: Callable[[], bool]) -> None:
    """Return when the server has proven that it answers.

    Raises:
        Stopped: `is_stopped` said so.
        InputRefused: a model did not load, with the log's own reason.
        Stalled: it has done nothing for a minute; what hung has been ended, its stacks are in the log.
        EnvironmentUnusable: it was not ready within the load timeout, or another server answers there.
    """
    begun = time.monotonic()
    reporter = _Reporter(start, progress, begun)
    watch = StartWatch(start.process.pid)
    while not _all_ready(start):
        if is_stopped():
            raise Stopped
        _refuse_failed(start)
        _refuse_stalled(start, watch)
        if time.monotonic() - begun > start.load_timeout_s:
            raise EnvironmentUnusable(_late(start))
        reporter.report()
        time.sleep(_POLL_S)
    left_s = max(_ASK_DEADLINE_S, start.load_timeout_s - (time.monotonic() - begun))
    model = next((name for name in CANARY_MODELS if name in start.models), None)
    if model is None and start.http_url is not None and LLMAPI_MODEL in start.models:
        model = LLMAPI_MODEL
    if model is not None:  # A repository without one is taken at its word.
        progress(f"all {len(start.models)} models loaded; asking {model} for one token")
        _prove(start, model, deadline_s=left_s, is_stopped=is_stopped, watch=watch)


def exit_text(return_code: int) -> str:
    """How a process ended, in words."""
    if return_code >= 0:
        return f"ended with exit status {return_code}"
    try:
        return f"was ended by {signal.Signals(-return_code).name}"
    except ValueError:
        return f"was ended by signal {-return_code}"


def describe_end(start: Start, *, return_code: int) -> str:
    """Why the server ended: the log's reason, else how, with its last lines."""
    log = start.read_log()
    known = explain(log.splitlines()) if start.program != "tritonserver" else []
    if known:
        lines = "\n  ".join(known)
        return f"{start.program} {exit_text(return_code)}; {start.log} shows:\n  {lines}"
    if reason := triton_log.failure_reason(log):
        return f"Triton could not load the repository:\n  {reason}\n  log: {start.log}"
    lines = "\n  ".join(triton_log.last_lines(log))
    return f"{start.program} {exit_text(return_code)}; the end of {start.log}:\n  {lines}"


class _Reporter:
    """Says what is loading: when it changes, and every few seconds."""

    def __init__(self, start: Start, progress: Progress, begun: float) -> None:
        self._start, self._progress, self._begun = start, progress, begun
        self._said, self._said_at = "", begun

    def report(self) -> None:
        log = self._start.read_log()
        loaded, loading = triton_log.loaded_models(log), triton_log.loading_models(log)
        text = f"{len(loaded)} of {len(self._start.models)} models loaded"
        if loading:
            text += f"; loading {', '.join(loading)}"
        now = time.monotonic()
        if text != self._said or now - self._said_at > _PROGRESS_S:
            self._progress(f"{text} ({format_seconds(now - self._begun)})")
            self._said, self._said_at = text, now


def _all_ready(start: Start) -> bool:
    """Whether *this* server answers on its port, with every model of the repository ready."""
    from triton_repo.client.channel import CertificateRefused
    from triton_repo.client.client import DeadlineExceeded, ServerUnreachable

    # A gRPC channel would be slow to notice when its port opens; the HTTP port opens a moment after it.
    if not all(_is_open(url) for url in (start.url, start.http_url) if url is not None):
        return False
    try:
        with _client(start, deadline_s=_ASK_DEADLINE_S) as client:
            found = client.server_id()
            if found != start.mark:
                raise EnvironmentUnusable(f"{start.url}: another server answers there ({found!r})")
            ready = {model.name for model in client.models() if model.state == "READY"}
            return set(start.models) <= ready
    except CertificateRefused:
        raise  # It will be no other one however long it is waited for.
    except (ServerUnreachable, DeadlineExceeded):
        return False


def _is_open(url: str) -> bool:
    """Whether something listens at ``HOST:PORT``, with or without ``http://``."""
    host, _, port = url.rpartition("/")[2].rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_ASK_DEADLINE_S).close()
    except OSError:
        return False
    return True


def _client(start: Start, *, deadline_s: float) -> Client:
    from triton_repo.client.client import Client

    security = start.security
    return Client(
        start.url, deadline_s=deadline_s, headers=security.client_headers(), tls=security.client_tls()
    )


def _refuse_failed(start: Start) -> None:
    return_code = start.process.poll()
    if return_code is not None:
        raise InputRefused(describe_end(start, return_code=return_code))
    if reason := triton_log.hang_reason(start.read_log()):
        raise InputRefused(f"Triton hangs while loading:\n  {reason}\n  log: {start.log}")


def _refuse_stalled(start: Start, watch: StartWatch) -> None:
    if not start.is_watched:
        return
    log = start.read_log()
    if stall := watch.stall(loading=triton_log.loading_models(log), log_size=len(log)):
        show_stacks(stall)
        raise Stalled(f"{stall.cause}\n  log: {start.log}")


def _late(start: Start) -> str:
    log = start.read_log()
    loading = ", ".join(triton_log.loading_models(log)) or "nothing that the log names"
    lines = "\n  ".join(triton_log.last_lines(log))
    return (
        f"not ready within {format_seconds(start.load_timeout_s)}, still loading: {loading}; "
        f"give it longer with --load-timeout, or see {start.log}:\n  {lines}"
    )


def _prove(
    start: Start, model: str, *, deadline_s: float, is_stopped: Callable[[], bool], watch: StartWatch
) -> None:
    """One real answer; whatever ends a process meanwhile ends the wait, which Triton would let hang."""
    models = processes.ModelProcesses(start.process.pid)
    cause = ""
    with ThreadPoolExecutor(1) as pool, _client(start, deadline_s=deadline_s) as client:
        if model == LLMAPI_MODEL and start.http_url is not None:
            answer: Future[Any] = pool.submit(generate_one, start.http_url, deadline_s=deadline_s)
        else:
            answer = pool.submit(client.generate, CANARY_PROMPT, max_tokens=1, model=model)
        while not answer.done() and not cause:
            wait([answer], timeout=_POLL_S)
            return_code = start.process.poll()
            if is_stopped():
                client.close()
                raise Stopped
            try:
                _refuse_stalled(start, watch)
            except Stalled:
                client.close()
                raise
            if return_code is not None:
                cause = f"{start.program} {exit_text(return_code)}"
            else:
                cause = models.ended() or ""
        client.close()
        if not cause:
            error = answer.exception()
            if error is None:
                return
            if not isinstance(error, TpforgeError):
                raise error
            cause = str(error)
    raise InputRefused(
        f"all models are loaded, but {model} did not answer a first request: {cause}\n  log: {start.log}"
    )
