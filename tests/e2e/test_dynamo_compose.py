"""The services of target dynamo-compose: read by Dynamo's own parsers, and run as processes here.

Dynamo's real front and Dynamo's own sample worker, in place of dynamo.trtllm, which needs a GPU: the sample
answers with made-up tokens. What is proven is that they find each other as told, and when they are ready.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.conftest import Engine
from tests.support.deployments import DYNAMO_OPTIONS, ONE_HOST, deployment_of
from tests.support.patience import PATIENCE_S
from tests.support.ports import free_ports
from tpforge.system.opener import read_url
from tpforge.system.programs import end_program
from triton_repo.client.openai import OpenAiClient
from triton_repo.deploy.files import TEMPLATES
from triton_repo.deploy.targets import target_files
from triton_repo.openai.card import write_card
from triton_repo.openai.environment import dynamo_python, environment_folder, is_complete

PARSERS = Path(__file__).parents[1] / "support" / "dynamo_parsers.py"
READY = TEMPLATES / "dynamo" / "ready.py"
SAMPLE = "dynamo.common.backend.sample_main"

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        not is_complete(environment_folder()), reason="NVIDIA Dynamo is not installed: make setup-openai"
    ),
]


def services(case: str) -> dict[str, Any]:
    texts = target_files("dynamo-compose", deployment_of(case, "dynamo-compose"))
    found: dict[str, Any] = yaml.safe_load(texts["compose.yaml"])["services"]
    return {name: service for name, service in found.items() if name != "prepare"}


def graph_commands(case: str) -> list[list[str]]:
    graph = yaml.safe_load(target_files("dynamo", deployment_of(case, "dynamo"))["graph.yaml"])
    containers = [one["podTemplate"]["spec"]["containers"][0] for one in graph["spec"]["components"]]
    return [[*container["command"], *container["args"]] for container in containers]


def parse(commands: list[list[str]]) -> list[dict[str, Any]]:
    """What Dynamo's own parsers make of them."""
    asked = [[words[2], words[3:]] for words in commands]
    done = subprocess.run(
        [str(dynamo_python()), "-I", str(PARSERS)],
        input=json.dumps(asked),
        env={"PATH": os.environ["PATH"], "DYN_DISCOVERY_BACKEND": "file"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_dynamos_own_parsers_take_every_command_of_both_targets() -> None:
    commands = [words for case in DYNAMO_OPTIONS for words in graph_commands(case)]
    commands += [service["command"] for case in ONE_HOST for service in services(case).values()]
    for words, options in zip(commands, parse(commands), strict=True):
        match words[2]:
            case "dynamo.frontend":
                mode = words[words.index("--router-mode") + 1]
                assert options["router_mode"] == mode
                assert options["kserve_grpc_server"] == ("--kserve-grpc-server" in words)
            case "dynamo.trtllm":
                assert options["model"] == words[words.index("--model") + 1]
                assert options["use_kv_events"] == ("--publish-kv-events" in words)
                assert options["discovery_backend"] == "file"
                divided = [role for role in ("prefill", "decode") if role in words]
                assert options["component"] == ("prefill" if divided == ["prefill"] else "backend")
            case "dynamo.triton":
                assert options["discovery_backend"] == "file"


def sample_words(service: dict[str, Any], card: Path) -> list[str]:
    """Dynamo's sample worker with the role of one of dynamo.trtllm; it reads options only, no variables."""
    words, environment = service["command"], service["environment"]
    assert words[:3] == ["python3", "-m", "dynamo.trtllm"]
    role = words[words.index("--disaggregation-mode") + 1] if "--disaggregation-mode" in words else "agg"
    return [
        *("python3", "-m", SAMPLE, "--model-name", str(card), "--disaggregation-mode", role),
        *("--discovery-backend", environment["DYN_DISCOVERY_BACKEND"]),
        *(
            "--event-plane",
            environment["DYN_EVENT_PLANE"],
            "--request-plane",
            environment["DYN_REQUEST_PLANE"],
        ),
    ]


@contextmanager
def running(words: list[str], environment: dict[str, str], log: Path) -> Iterator[None]:
    with log.open("wb") as file:
        words = [str(dynamo_python()), "-P", *words[1:]]
        process = subprocess.Popen(words, env=environment, stdout=file, stderr=file)
        try:
            yield
            assert process.poll() is None, log.read_text()
        finally:
            end_program(process)


def until(condition: Callable[[], bool], what: str, logs: Path) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        said = "\n".join(log.read_text()[-2000:] for log in logs.glob("*.log"))
        assert time.monotonic() < end, f"{what}\n{said}"
        time.sleep(0.2)


@pytest.mark.parametrize("case", ["llama70b-dynamo", "llama70b-apart"])
def test_the_services_find_each_other_and_are_ready_when_they_say_so(
    case: str, tiny_engine: Engine, tmp_path: Path
) -> None:
    card = write_card(tiny_engine.folder, tiny_engine.manifest, out=tmp_path / "card")
    (tmp_path / "discovery").mkdir()
    # Of Dynamo 1.6.1 the port of a worker's health is a signed number of 16 bits.
    base = free_ports(num_more=6).http
    found = services(case)
    fixed = {"DYN_FILE_KV": str(tmp_path / "discovery"), "PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    front = found.pop("frontend")
    ready = front["healthcheck"]["test"][3:]
    ready[ready.index("--url") + 1], ready[ready.index("--model") + 1] = f"http://127.0.0.1:{base}", str(card)

    def is_ready() -> bool:
        words = [sys.executable, "-I", str(READY), *ready]
        return subprocess.run(words, capture_output=True, check=False).returncode == 0

    with ExitStack() as stack:
        environment = {**front["environment"], **fixed, "DYN_HTTP_PORT": str(base)}
        stack.enter_context(running(front["command"], environment, tmp_path / "front.log"))
        until(lambda: answers(f"http://127.0.0.1:{base}/live"), "the front listens", tmp_path)
        assert not is_ready(), "it has no worker yet"
        for number, (name, service) in enumerate(found.items(), start=1):
            environment = {**service["environment"], **fixed, "DYN_SYSTEM_PORT": str(base + number)}
            words = sample_words(service, card)
            assert not answers(f"http://127.0.0.1:{base + number}/health")
            stack.enter_context(running(words, environment, tmp_path / f"{name}.log"))
        for number in range(1, len(found) + 1):
            health = service_health(found, base + number)
            until(health, f"worker {number} says that it is ready", tmp_path)
        until(is_ready, "the front answers with one token", tmp_path)
        client = OpenAiClient(f"http://127.0.0.1:{base}")
        until(
            lambda: len(client.get("/health")["instances"]) >= len(found),
            "the front knows all workers",
            tmp_path,
        )
        message = [{"role": "user", "content": "Hello"}]
        chat = client.ask("/v1/chat/completions", {"model": str(card), "messages": message, "max_tokens": 5})
        assert chat["usage"]["completion_tokens"] == 5


def answers(url: str) -> bool:
    try:
        read_url(url, timeout_s=5.0)
    except OSError:
        return False
    return True


def service_health(found: dict[str, Any], port: int) -> Callable[[], bool]:
    """The health check of a worker, which listens on another port here."""
    words = next(iter(found.values()))["healthcheck"]["test"][3:]
    asked = [word.replace(":9090", f":{port}") for word in words]
    assert asked != words
    command = [sys.executable, "-I", str(READY), *asked]
    return lambda: subprocess.run(command, capture_output=True, check=False).returncode == 0
