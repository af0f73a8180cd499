"""The canary of servers with OpenAI's API against scripted ones, stuck, busy and gone; and who starts it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.ports import free_ports
from triton_repo.serve import supervisor
from triton_repo.serve.heartbeat import OPENAI_CANARY, Heartbeat
from triton_repo.serve.launched import LaunchedProgram
from triton_repo.serve.supervisor import ServerPlan, Supervisor

Answer = tuple[int, str] | None
"""Status and text; None is an answer that never comes."""
TOKEN: Answer = (200, json.dumps({"choices": [{"text": " x"}]}))
NOTHING = (404, "{}")


@contextmanager
def server(**paths: Callable[[int], Answer]) -> Iterator[str]:
    """Answers the nth asking of a path by its function; `v1` is a completion."""
    over = threading.Event()
    counts = dict.fromkeys(("v1", "metrics", "prometheus"), 0)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.split("/")[1]
            counts[name] += 1
            answer = paths.get(name, lambda _n: NOTHING)(counts[name])
            if answer is None:
                over.wait()
                return
            self.send_response(answer[0])
            self.end_headers()
            self.wfile.write(answer[1].encode())

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_arguments: Any) -> None:
            """Nothing."""

    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{found.server_port}"
    finally:
        over.set()
        found.shutdown()
        found.server_close()


def canary(url: str, *words: str) -> tuple[int, str]:
    command = [sys.executable, "-I", "-S", str(OPENAI_CANARY), "--url", url, "--model", "m", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr.strip()


def stuck(_number: int) -> Answer:
    return None


def ended(number: int, reason: str = "stop") -> Answer:
    return 200, f'trtllm_request_success_total{{finished_reason="{reason}"}} {number}\n'


def test_a_token_is_progress() -> None:
    with server(v1=lambda _n: TOKEN) as url:
        assert canary(url) == canary(url, "--alive") == (0, "")


@pytest.mark.parametrize(
    "counted",
    [
        {"metrics": lambda n: (200, json.dumps([{"iter": n, "numActiveRequests": 8}]))},
        {"prometheus": ended},
    ],
)
def test_a_server_that_is_busy_with_others_is_alive(counted: dict[str, Callable[[int], Answer]]) -> None:
    with server(v1=stuck, **counted) as url:
        assert canary(url, "--alive", "--timeout", "4") == (0, "")
        assert canary(url, "--timeout", "1")[0] == 1, "though no request would be served in time"


@pytest.mark.parametrize(
    "counted",
    [
        {},
        {"metrics": lambda _n: (200, "[]")},
        {"metrics": lambda n: (200, json.dumps([{"iter": 7}] if n == 1 else []))},
        {"prometheus": lambda _n: ended(3)},
        {"prometheus": lambda n: ended(n, "cancelled")},
        {"prometheus": lambda n: (200, f"trtllm_num_requests_waiting {n}\n")},
    ],
    ids=["no counters", "no iterations", "iterations of before", "no end", "clients give up", "more wait"],
)
def test_a_server_that_makes_nothing_is_stuck(counted: dict[str, Callable[[int], Answer]]) -> None:
    with server(v1=stuck, **counted) as url:
        assert canary(url, "--alive", "--timeout", "3") == (1, "canary: no progress within 3 s")


def test_a_server_that_refuses_to_generate_is_told_with_its_words() -> None:
    with server(v1=lambda _n: (500, "CUDA error")) as url:
        status, said = canary(url, "--alive", "--timeout", "4")
    assert status == 1
    assert "HTTP 500" in said and "CUDA error" in said


def test_where_nothing_listens_nothing_is_learned() -> None:
    url = f"http://127.0.0.1:{free_ports().http}"
    status, said = canary(url, "--alive", "--timeout", "4")
    assert status == 2
    assert said.startswith("canary: the server cannot be reached: ConnectionRefusedError")
    assert canary(url)[0] == 1


@pytest.mark.parametrize("counts_steps", [True, False])
def test_the_supervisor_of_trtllm_serve_asks_its_own_model(
    counts_steps: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def start(_ports: Any, **more: Any) -> Any:
        asked.append(more)
        raise BlockingIOError

    monkeypatch.setattr(supervisor, "start_openai_canary", start)
    plan = ServerPlan(
        repository=tmp_path,
        state_dir=tmp_path / "server",
        ports=free_ports(),
        host="127.0.0.1",
        load_timeout_s=1,
        launch=LaunchedProgram(
            words=("trtllm-serve",), environment={}, server_id="a", model="tiny", counts_steps=counts_steps
        ),
    )
    heartbeat = Supervisor(plan, progress=print, on_ready=print)._new_heartbeat()
    assert isinstance(heartbeat, Heartbeat)
    assert heartbeat.problem() is None
    assert asked == [{"host": "127.0.0.1", "model": "tiny", "counts_steps": counts_steps}]
