"""Dynamo's real front before two real servers: OpenAI's client, a client that leaves, what is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from scripts.flows.serve import servers, stop_servers
from scripts.flows.serving.replicas import num_workers, serve_replicas
from scripts.main import main
from tests.e2e.conftest import Engine, quiet
from tests.support.examples import code_blocks
from tests.support.patience import PATIENCE_S
from tests.support.ports import free_ports
from tpforge.errors import VerificationFailed
from tpforge.outputs.places import Places
from tpforge.recipe import ServeRecipe
from tpforge.repository_options import ReferenceOptions
from triton_repo.client.client import Client
from triton_repo.openai.environment import dynamo_python, environment_folder, is_complete
from triton_repo.serve import processes
from triton_repo.serve.companions import companions_mark
from triton_repo.serve.local import Server, status, stop
from triton_repo.serve.state import read_state

DYNAMO = environment_folder()
"""The user's own, as it is installed; the tests' own data lie elsewhere."""

CLIENTS = Path(__file__).parents[1] / "support" / "servers" / "openai_clients.py"

API_NAMES = ("completions", "chat")

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not is_complete(DYNAMO), reason="NVIDIA Dynamo is not installed: make setup-openai"),
]


@dataclass(frozen=True)
class Front:
    """Two servers of the tiny engine behind one front."""

    places: Places
    server: Server

    @property
    def url(self) -> str:
        return self.server.addresses["openai"]

    def replica(self, number: int) -> Server:
        found = status(self.places.replica(number)).server
        assert found is not None
        return found

    def worker(self, number: int) -> processes.ProcessId:
        state = read_state(self.places.replica(number))
        assert state is not None
        marked = processes.marked(companions_mark(state.mark))
        words = {process: Path(f"/proc/{process.pid}/cmdline").read_bytes() for process in marked}
        return next(process for process, line in words.items() if b"triton_repo.openai.worker" in line)

    def ask(self, **body: Any) -> dict[str, Any]:
        with self._open("/chat/completions", body) as answer:
            value: dict[str, Any] = json.loads(answer.read())
            return value

    def text(self, path: str) -> str:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(self.url.removesuffix("/v1") + path, timeout=PATIENCE_S) as answer:
            return str(answer.read().decode())

    def get(self, path: str) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.text(path))
        return value

    def _open(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            self.url + path,
            data=json.dumps({"model": "tiny", **body}).encode(),
            headers={"Content-Type": "application/json"},
        )
        return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=PATIENCE_S)


@contextmanager
def running(engine: Engine, folder: Path, **fields: Any) -> Iterator[Front]:
    shutil.copytree(engine.folder, folder / "tiny" / "engine")
    places = Places(folder / "tiny" / "engine")
    base = free_ports(num_more=11).http
    recipe = ServeRecipe(port_base=base, openai=True, replicas=2, load_timeout=PATIENCE_S, **fields)
    options = ReferenceOptions(executor="lockstep", num_threads=1)
    server = serve_replicas(places, recipe, options=options, detach=True, progress=quiet)
    try:
        yield Front(places, server)
    finally:
        stop_servers(str(places.engine), every=False)
    assert all(not found.is_running for found in servers(str(places.engine)))


@pytest.fixture(scope="module")
def front(tiny_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with running(tiny_engine, tmp_path_factory.mktemp("front")) as found:
        yield found


def until(what: str, condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def metric(server: Server, name: str, **labels: str) -> float:
    """What a server's own metric says."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(server.metrics_url) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def active(server: Server) -> float:
    """How many requests generate."""
    return metric(server, "nv_trt_llm_request_metrics", request_type="active")


def num_requests(server: Server) -> float:
    """How many requests were answered."""
    return metric(server, "nv_inference_request_success_total", model="tensorrt_llm")


@dataclass
class Load:
    """OpenAI's own client in a process of its own."""

    process: subprocess.Popen[str]

    def half(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "half\n"

    def end(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        with self.process:
            found: dict[str, Any] = json.loads(self.process.stdout.read().split("half\n")[-1])
        assert self.process.returncode == 0
        return found


def load(front: Front, *, num_requests: int, num_clients: int) -> Load:
    words = [str(dynamo_python()), "-I", str(CLIENTS), front.url, "tiny"]
    return Load(
        subprocess.Popen(
            [*words, str(num_requests), str(num_clients)], stdout=subprocess.PIPE, text=True, env=os.environ
        )
    )


# The front quotes a value of the wrong type, and not the field that has it.
UNNAMED = {
    *(f"completions.refuses.{name}" for name in ("stream_text", "seed_text")),
    "chat.refuses.messages_text",
    *(f"{api}.refuses.{name}" for api in API_NAMES for name in ("max_tokens_text", "negative_max_tokens")),
}


def test_the_smoke_test_passes_but_for_the_fields_that_the_front_does_not_name(
    front: Front, capfd: pytest.CaptureFixture[str]
) -> None:
    url = front.url.removesuffix("/v1")
    words = ["smoke", url, "--api", "openai", "--engine", str(front.places.engine), "--json"]
    words += ["--deadline", str(PATIENCE_S)]  # The front reads a prompt of 10 MB.
    assert main(words) == VerificationFailed.exit_code
    checks = json.loads(capfd.readouterr().out)["checks"]
    failed = {check["name"]: check["reason"] for check in checks if check["status"] == "fail"}
    assert set(failed) == UNNAMED, failed
    assert all("does not name" in reason for reason in failed.values())


@pytest.mark.parametrize("page", ["README.md", "docs/clients.md"])
def test_the_python_of_the_pages_gets_an_answer(front: Front, page: str) -> None:
    """As it stands there, but for the address and the model's name."""
    block = next(one for one in code_blocks(page, "python") if "OpenAI" in one)
    model = next(line.split('model="')[1].split('"')[0] for line in block.splitlines() if 'model="' in line)
    code = block.replace("http://localhost:8003/v1", front.url).replace(f'model="{model}"', 'model="tiny"')
    done = subprocess.run(
        [str(dynamo_python()), "-I", "-c", code], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_usage_and_reason_are_those_of_the_tokens(front: Front) -> None:
    message = [{"role": "user", "content": "Hello"}]
    answer = front.ask(messages=message, max_tokens=7, temperature=0, ignore_eos=True)
    assert answer["usage"]["completion_tokens"] == 7
    assert answer["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("max_tokens", {"max_tokens": 5000}),
        ("n", {"n": 2, "max_tokens": 4}),
        ("top_logprobs", {"logprobs": True, "top_logprobs": 2, "max_tokens": 4}),
        ("response_format", {"response_format": {"type": "json_object"}, "max_tokens": 4}),
    ],
)
def test_what_is_refused_is_a_400_that_names_the_field(
    front: Front, field: str, fields: dict[str, Any]
) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        front.ask(messages=[{"role": "user", "content": "Hello"}], **fields)
    with caught.value as error:
        assert error.code == 400
        assert json.loads(error.read())["message"].startswith(f"{field}: ")


def test_logprobs_are_of_each_token_that_was_chosen(front: Front) -> None:
    asked = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 6, "temperature": 0}
    whole = front.ask(**asked, logprobs=True, ignore_eos=True)
    found = whole["choices"][0]["logprobs"]["content"]
    assert len(found) == whole["usage"]["completion_tokens"] == 6
    assert all(token["logprob"] < 0 for token in found)
    for number in (0, 1):  # The front's own words for it; `true` alone is its 1, and lists the token itself.
        again = front.ask(**asked, logprobs=True, top_logprobs=number, ignore_eos=True)
        tokens = again["choices"][0]["logprobs"]["content"]
        assert [token["logprob"] for token in tokens] == [token["logprob"] for token in found]
        assert [len(token["top_logprobs"]) for token in tokens] == [number] * 6


def test_a_penalty_makes_a_greedy_answer_repeat_itself_less(front: Front) -> None:
    def num_different(**fields: Any) -> int:
        asked = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 48, "temperature": 0}
        answer = front.ask(**asked, **fields, logprobs=True, ignore_eos=True)
        tokens = [str(token["bytes"]) for token in answer["choices"][0]["logprobs"]["content"]]
        assert len(tokens) == 48
        return len(set(tokens))

    plain = num_different()
    assert num_different(frequency_penalty=2.0) > plain
    assert num_different(presence_penalty=2.0) > plain


def test_the_front_tells_the_engines_length_and_counts_what_it_answers(front: Front) -> None:
    (model,) = front.get("/v1/models")["data"]
    assert (model["id"], model["context_window"]) == ("tiny", 4096)

    def num_answered() -> float:
        families = text_string_to_metric_families(front.text("/metrics"))
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == "dynamo_frontend_requests_total" and sample.labels["status"] == "success"
        )

    before = num_answered()
    front.ask(messages=[{"role": "user", "content": "Hello"}], max_tokens=2)
    assert num_answered() == before + 1


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_gets_a_stream_that_ends_with_done(front: Front) -> None:
    body = json.dumps(
        {"model": "tiny", "prompt": "Hello", "max_tokens": 3, "stream": True, "ignore_eos": True}
    )
    words = ["curl", "--silent", "--no-buffer", "--noproxy", "*", "--max-time", "60", "--data", body]
    words += ["--header", "Content-Type: application/json", f"{front.url}/completions"]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    events = [line.removeprefix("data: ") for line in said if line]
    assert events[-1] == "[DONE]"
    reasons = [
        choice.get("finish_reason") for event in events[:-1] for choice in json.loads(event)["choices"]
    ]
    assert reasons[-1] == "length" and set(reasons[:-1]) == {None}


def test_a_kv_aware_front_keeps_prompts_with_one_start_on_one_server(
    tiny_engine: Engine, tmp_path: Path
) -> None:
    kserve = free_ports()
    fields = {"router": "kv", "tool_call_parser": "hermes", "host": "0.0.0.0", "kserve_port": kserve.http}
    with running(tiny_engine, tmp_path, **fields) as found:
        with Client(f"127.0.0.1:{kserve.http}") as client:
            assert client.is_ready(), "KServe's clients are answered as soon as the server is called ready"
        pair = [found.replica(1), found.replica(2)]
        before = [num_requests(server) for server in pair]
        start = "The same start of a prompt, many blocks long. " * 8
        tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
        for number in range(6):
            message = [{"role": "user", "content": f"{start}{number}"}]
            found.ask(messages=message, max_tokens=4, **({"tools": [tool]} if number % 2 else {}))
        asked = [num_requests(server) - count for server, count in zip(pair, before, strict=True)]
        assert sorted(asked) == [0, 6]


def test_a_client_that_goes_away_frees_its_place_long_before_its_last_token(front: Front) -> None:
    num_tokens = 3900
    body = {"prompt": "Hello", "max_tokens": num_tokens, "stream": True, "ignore_eos": True}
    pair = [front.replica(1), front.replica(2)]
    before = sum(metric(server, "tpforge_model_progress") for server in pair)
    with front._open("/completions", body) as answer:
        assert answer.readline().startswith(b"data: ")
        until("one generates", lambda: sum(map(active, pair)) == 1)
    until("none generates", lambda: sum(map(active, pair)) == 0)
    # Every token is a step of the model and is counted once more when it is sent.
    assert sum(metric(server, "tpforge_model_progress") for server in pair) - before < num_tokens


def test_kill_9_of_a_worker_under_load_loses_no_request_and_its_successor_is_used(front: Front) -> None:
    killed = front.worker(2)
    clients = load(front, num_requests=60, num_clients=6)
    clients.half()
    os.kill(killed.pid, signal.SIGKILL)
    found = clients.end()
    assert found["errors"] == []
    until("the front knows two workers", lambda: num_workers(front.server) == 2)
    assert front.worker(2) != killed
    before = num_requests(front.replica(2))
    assert load(front, num_requests=8, num_clients=2).end()["num_whole"] == 8
    assert num_requests(front.replica(2)) > before


def test_kill_9_of_a_server_under_load_leaves_whole_answers_or_errors_and_it_comes_back(front: Front) -> None:
    state = read_state(front.places.replica(2))
    assert state is not None and state.server is not None
    clients = load(front, num_requests=60, num_clients=6)
    clients.half()
    os.kill(state.server.pid, signal.SIGKILL)
    found = clients.end()
    assert found["num_whole"] + len(found["errors"]) == 60
    assert len(found["errors"]) <= 6, found["errors"]  # Those in flight on it, of which most migrate.
    until("it is ready again", lambda: status(front.places.replica(2)).phase == "ready")
    until("the front knows two workers", lambda: num_workers(front.server) == 2)


def test_a_server_that_is_stopped_under_load_loses_nothing(front: Front) -> None:
    clients = load(front, num_requests=60, num_clients=6)
    clients.half()
    stop(front.places.replica(2))
    assert clients.end()["errors"] == []
    assert num_workers(front.server) == 1
