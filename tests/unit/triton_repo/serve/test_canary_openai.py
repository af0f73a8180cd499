"""The canary of servers with OpenAI's API against scripted ones, stuck, busy and gone; and who starts it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.support.ports import free_ports
from triton_repo.serve import heartbeat
from triton_repo.serve.heartbeat import OPENAI_CANARY
from triton_repo.serve.launched import LaunchedProgram
from triton_repo.serve.ports import Ports

pytestmark = pytest.mark.apart

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
        {"prometheus": lambda n: (200, f"trtllm_iteration_latency_seconds 0.0{n}\n")},
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
        {"prometheus": lambda n: (200, f'trtllm_request_error_total{{http_code="400"}} {n}\n')},
        {"prometheus": lambda _n: (200, "trtllm_iteration_latency_seconds 0.02\n")},
    ],
    ids=[
        *("no counters", "no iterations", "iterations of before", "no end", "clients give up", "more wait"),
        *("clients ask what is refused", "no iteration"),
    ],
)
def test_a_server_that_makes_nothing_is_stuck(counted: dict[str, Callable[[int], Answer]]) -> None:
    with server(v1=stuck, **counted) as url:
        assert canary(url, "--alive", "--timeout", "1.5") == (1, "canary: no progress within 1.5 s")


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


@pytest.mark.parametrize(
    ("launched", "started"),
    [
        ({"model": "tiny", "counts_steps": True}, ["--model tiny", "--timeout 15.0", "canary_openai.py"]),
        ({"model": "tiny"}, ["--model tiny", "--timeout 60.0", "canary_openai.py"]),
        ({"model": "tiny", "api": "trtllm-grpc"}, ["triton_repo.trtllm_serve.canary", ":8001 60.0"]),
    ],
)
def test_a_server_with_an_api_of_its_own_is_asked_by_it(
    launched: dict[str, Any], started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def start(words: list[str], **_more: Any) -> Any:
        asked.append(" ".join(words))
        raise BlockingIOError

    monkeypatch.setattr(heartbeat.subprocess, "Popen", start)
    launch = LaunchedProgram(words=("trtllm-serve",), environment={}, server_id="a", **launched)
    found = heartbeat.heartbeat_of(Ports.from_base(8000), host="0.0.0.0", launch=launch, models=())
    assert found is not None
    assert found.problem() is None
    (words,) = asked
    assert "127.0.0.1:800" in words
    assert all(part in words for part in started), words


def test_other_programs_are_taken_at_their_word() -> None:
    launch = LaunchedProgram(words=("mpirun",), environment={}, server_id="a")
    ports = Ports.from_base(8000)
    assert heartbeat.heartbeat_of(ports, host="127.0.0.1", launch=launch, models=("ensemble",)) is None
    assert heartbeat.heartbeat_of(ports, host="127.0.0.1", launch=None, models=("other",)) is None
    assert heartbeat.heartbeat_of(ports, host="127.0.0.1", launch=None, models=("ensemble",)) is not None
