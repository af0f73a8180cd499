"""A promotion that is told to end goes back to the fallback first: real servers, real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.e2e.conftest import Engine
from tests.e2e.test_promote_secured import active, installed
from tests.support.patience import wait_until
from tests.support.ports import free_ports
from tpforge.outputs.places import ROUTER_FOLDER
from triton_repo.client.client import Client
from triton_repo.promote.promotion import Backend, RouterSwitch
from triton_repo.promote.router import Router
from triton_repo.serve.local import Server
from triton_repo.serve.security import Security
from triton_repo.serve.state import read_state

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]


def promotion(engine: str, port: int, *more: str) -> subprocess.Popen[str]:
    """`tpforge promote` as a process of its own session, its progress on stderr."""
    words = [sys.executable, "-m", "tpforge", "promote", engine, "--port", str(port), "--clients", "1"]
    return subprocess.Popen(
        [*words, "--max-p95-ms", "200000", *more],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def pid_of(server: Server) -> int:
    """tritonserver's process."""
    found = read_state(server.state_dir)
    assert found is not None and found.server is not None
    return found.server.pid


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Under nohup the tests ignore SIGHUP, and so would their children; a handler is not inherited."""
    before = signal.signal(signal.SIGHUP, lambda _number, _frame: None)
    yield
    signal.signal(signal.SIGHUP, before)


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """A process that holds its connections and answers nothing."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def wait_asked(server: Server) -> None:
    """Until the watch waits for an answer of the server, through the router."""

    def in_flight() -> int:
        return Router(ROUTER_FOLDER).status().in_flight.get(server.grpc_url, 0)

    wait_until(in_flight, "the watch waits for the server", every_s=0.02)


def test_signals_during_the_watch_leave_the_fallback_active_though_the_candidate_hangs(
    tiny_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    port = free_ports().grpc
    with ExitStack() as stack:
        blue, green = (
            stack.enter_context(installed(name, tiny_engine, Security())) for name in ("blue", "green")
        )
        stack.callback(Router(ROUTER_FOLDER).stop)
        first = Backend("out/blue/engine", blue.grpc_url)
        RouterSwitch(Router(ROUTER_FOLDER), "127.0.0.1", port).shift(first)
        ends = ((signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129))
        for number, status in ends:
            lines = []
            # Thawed only when the promotion has ended, which therefore waited for none of its answers.
            with ExitStack() as thaw, promotion("green", port, "--deadline", "600") as child:
                assert child.stderr is not None
                for line in child.stderr:
                    lines.append(line)
                    if line.startswith("canary:"):  # What comes next is the shift, and then the watch.
                        thaw.enter_context(frozen(pid_of(green)))
                        wait_asked(green)
                        child.send_signal(number)
            assert (child.returncode, lines[-2:-1]) == (status, ["went back to out/blue/engine\n"]), lines
            assert active() == blue.grpc_url
            with Client(f"127.0.0.1:{port}") as client:
                assert client.generate("Hello", max_tokens=2).text
