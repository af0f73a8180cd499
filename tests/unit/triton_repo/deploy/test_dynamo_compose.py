"""Target dynamo-compose: which GPUs each worker has, how they find each other, what is open to others."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from tests.support.deployments import DYNAMO_IMAGE, ONE_HOST, deployment_of
from tpforge.errors import UsageError
from triton_repo.deploy.files import TEMPLATES
from triton_repo.deploy.targets import apply_words, target_files

READY = TEMPLATES / "dynamo" / "ready.py"


def services(case: str, **changes: Any) -> dict[str, Any]:
    texts = target_files("dynamo-compose", deployment_of(case, "dynamo-compose", **changes))
    found: dict[str, Any] = yaml.safe_load(texts["compose.yaml"])["services"]
    return found


def gpus(service: dict[str, Any]) -> list[str]:
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    ids: list[str] = device["device_ids"]
    return ids


def test_workers_of_one_host_have_gpus_of_their_own() -> None:
    found = services("llama70b-dynamo")
    assert list(found) == ["prepare", "frontend", "worker-1", "worker-2"]
    assert gpus(found["worker-1"]) == ["0", "1", "2", "3"]
    assert gpus(found["worker-2"]) == ["4", "5", "6", "7"]
    assert "ipc" not in found["worker-1"]


def test_workers_that_move_caches_see_the_gpus_of_each_other_and_compute_on_their_own() -> None:
    found = services("llama70b-apart")
    assert list(found) == ["prepare", "frontend", "prefill-1", "decode-1"]
    for name, own in (("prefill-1", "0,1,2,3"), ("decode-1", "4,5,6,7")):
        assert gpus(found[name]) == [str(index) for index in range(8)]
        assert found[name]["environment"]["CUDA_VISIBLE_DEVICES"] == own
        assert found[name]["ipc"] == "host"
        assert found[name]["command"][-4:-2] == ["--disaggregation-mode", name.removesuffix("-1")]


@pytest.mark.parametrize("case", ONE_HOST)
def test_all_find_each_other_through_one_folder_in_memory_and_only_the_front_is_open(case: str) -> None:
    deployment = deployment_of(case, "dynamo-compose")
    composed = yaml.safe_load(target_files("dynamo-compose", deployment)["compose.yaml"])
    assert composed["volumes"]["discovery"]["driver_opts"]["type"] == "tmpfs"
    for name, service in composed["services"].items():
        if name == "prepare":
            continue
        environment = service["environment"]
        assert environment["DYN_DISCOVERY_BACKEND"] == "file"
        mounted = {mount["source"]: mount["target"] for mount in service["volumes"]}
        assert environment["DYN_FILE_KV"] == mounted["discovery"]
        assert ("ports" in service) == (name == "frontend")
    (port,) = composed["services"]["frontend"]["ports"]
    assert (port["host_ip"], port["published"]) == ("127.0.0.1", str(deployment.ports.http))
    assert apply_words("dynamo-compose", deployment)[:3] == ["docker", "compose", "up"]


def test_a_front_of_a_compiled_engine_is_asked_where_it_speaks_http() -> None:
    front = services("llama8b-dynamo")["frontend"]
    assert "--kserve-grpc-server" in front["command"]
    port = front["command"][front["command"].index("--grpc-metrics-port") + 1]
    assert f"http://127.0.0.1:{port}" in front["healthcheck"]["test"]
    assert front["healthcheck"]["test"][-1] == "--listed"


@pytest.mark.parametrize(
    ("case", "changes", "words"),
    [
        ("llama70b-dynamo", {"replicas": 3}, "the workers want 12 GPUs, the host has 8"),
        (
            "deepseek-v32-dynamo",
            {"image": DYNAMO_IMAGE},
            "16 ranks need 2 nodes .*--target dynamo",
        ),
        ("smollm2-reference", {}, "tpforge serve --openai"),
        ("llama8b-dynamo", {"router_mode": "kv"}, "--router-mode kv"),
    ],
)
def test_what_one_host_cannot_run_is_refused(case: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        services(case, **changes)


class _Front(BaseHTTPRequestHandler):
    """Lists the model `a`, and answers for it alone."""

    def do_GET(self) -> None:
        self._send(503 if self.path == "/health" else 200, {"data": [{"id": "a"}]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        known = asked["model"] == "a" and asked["max_tokens"] == 1
        self._send(200 if known else 404, {"choices": [{"text": "x"}]} if known else {"message": "no model"})

    def _send(self, status: int, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        del format, args


@pytest.fixture
def front() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Front)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("listed", [(), ("--listed",)])
def test_a_front_is_ready_when_it_answers_for_the_model(front: str, listed: tuple[str, ...]) -> None:
    for model, status in (("a", 0), ("b", 1)):
        done = _ready("--url", front, "--model", model, *listed)
        assert done.returncode == status
        assert ("expected b" in done.stderr or "HTTP 404" in done.stderr) == bool(status)


def test_a_worker_is_ready_when_it_says_so(front: str) -> None:
    done = _ready("--url", front, "--health")
    assert done.returncode == 1 and "HTTP 503" in done.stderr


def test_a_front_that_is_not_there_is_not_ready(tmp_path: Path) -> None:
    done = _ready("--url", "http://127.0.0.1:1", "--model", "a")
    assert done.returncode == 1
    assert "http://127.0.0.1:1: " in done.stderr and "Traceback" not in done.stderr


def _ready(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", str(READY), *arguments], capture_output=True, text=True, check=False
    )
