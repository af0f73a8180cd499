"""Drill: kill -9 and SIGSTOP of each part of a server under eight streams, and what the clients see of it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from tests.drills.figures import Figure
from tests.e2e.conftest import quiet
from tests.support.ports import free_ports
from tpforge.errors import TpforgeError
from triton_repo.client.client import Client
from triton_repo.serve.local import ServeOptions, Server, serve, stop
from triton_repo.serve.processes import stubs_of
from triton_repo.serve.state import read_state

NUM_STREAMS = 8
FOUND_WITHIN_S = 60.0
"""A part that is stuck is noticed so soon: its streams end with an error."""

LATE = f"found after more than {FOUND_WITHIN_S:g} s"
LIMIT_S = 240.0
"""A stream that has not ended, or a server that does not answer, by then is hung."""


class Stream(threading.Thread):
    """Asks for thousands of tokens until it fails; when that was."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url, self.flowing, self.ended_at = url, threading.Event(), 0.0
        self.error: str | None = None

    def run(self) -> None:
        try:
            with Client(self.url, deadline_s=2 * LIMIT_S) as client:
                for _ in client.chunks("the capital of", max_tokens=3000, min_tokens=3000, model="ensemble"):
                    self.flowing.set()
        except TpforgeError as error:
            self.error = str(error)
        self.ended_at = time.monotonic()


def _server(server: Server) -> int:
    state = read_state(server.state_dir)
    assert state is not None and state.server is not None
    return state.server.pid


def _stub(server: Server) -> int:
    return next(stub.pid for stub, name in stubs_of(_server(server)).items() if name == "tensorrt_llm")


def _rank(server: Server) -> int:
    return int(ranks_of(_stub(server))[0].pid)


def ranks_of(stub: int) -> list[psutil.Process]:
    """The processes of a model's ranks, in rank order: children of the one that they are forked from."""
    (parent,) = psutil.Process(stub).children()
    return sorted(parent.children(), key=lambda rank: int(rank.pid))


PARTS: dict[str, Callable[[Server], int]] = {
    "rank": _rank,
    "stub": _stub,
    "Triton": _server,
    "supervisor": lambda server: server.pid,
}


Cases = tuple[tuple[str, signal.Signals], ...]


def run(repository: Path, folder: Path, *, cases: Cases | None = None) -> Iterator[Figure]:
    """Each part killed and stopped in turn, on a server of a repository with ranks as processes."""
    chosen = cases or tuple((part, how) for part in PARTS for how in (signal.SIGKILL, signal.SIGSTOP))
    state_dir, ports = folder / "server", free_ports()
    options = ServeOptions(state_dir=state_dir, ports=ports, load_timeout_s=120, detach=True, drain_s=2)
    try:
        for part, how in chosen:
            # Each has a supervisor of its own: after five failures in a few minutes one gives up, rightly.
            yield _case(serve(repository, options=options, progress=quiet), part, how)
            stop(state_dir)
    finally:
        stop(state_dir)


def _case(server: Server, part: str, how: signal.Signals) -> Figure:
    figure = Figure(f"{how.name} of the {part}", "streams", num_tries=NUM_STREAMS, bad={"hung": 0, LATE: 0})
    streams = [Stream(server.grpc_url) for _ in range(NUM_STREAMS)]
    for stream in streams:
        stream.start()
    for stream in streams:
        assert stream.flowing.wait(LIMIT_S), stream.error
    process = psutil.Process(PARTS[part](server))
    begun = time.monotonic()
    process.send_signal(how)
    harmless = (part, how) == ("supervisor", signal.SIGSTOP)
    try:
        if harmless:  # A server outlives a supervisor that is stopped: its streams go on.
            time.sleep(5)
            figure.count("streams lost", sum(stream.error is not None for stream in streams))
            return figure
        for stream in streams:
            stream.join(max(0.1, begun + LIMIT_S - time.monotonic()))
            figure.count("hung", int(stream.is_alive()))
            if not stream.is_alive():
                figure.took("to the error", stream.ended_at - begun)
                figure.count(LATE, int(stream.ended_at - begun > FOUND_WITHIN_S))
        if part == "supervisor":
            figure.notes.append("nothing of the server is left; it is started again by `tpforge serve`")
            return figure
        figure.count("hung", int(not answers(server, begun + LIMIT_S)))
        figure.took("to service", time.monotonic() - begun)
        return figure
    finally:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGCONT)
        if harmless:
            stop(server.state_dir)
            for stream in streams:
                stream.join(30)


def answers(server: Server, end: float) -> bool:
    """Whether a request is answered before the monotonic clock says so much."""
    while time.monotonic() < end:
        with suppress(TpforgeError), Client(server.grpc_url, deadline_s=10) as client:
            if client.generate("the capital of", max_tokens=2).chunks[-1].final:
                return True
        time.sleep(0.2)
    return False
