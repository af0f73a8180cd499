"""Real Triton loads the repositories of TensorRT-LLM's runtimes, with stand-ins for what needs a GPU.

tensorrt: tensorrt_llm is served by the reference runtime. pytorch: the LLM API is replaced by a stand-in of
its interface. TensorRT-LLM itself is not run.
"""

from __future__ import annotations

import http.client
import json
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from engines import reference
from tests.e2e.conftest import Engine, quiet
from tests.support.ended import end_server
from tests.support.patience import PATIENCE_S, wait_until
from tests.support.ports import free_ports
from tpforge.manifest import EngineBuild, LlmApi, Manifest
from tpforge.repository_options import PytorchOptions, TensorrtOptions
from triton_repo.client.client import Client
from triton_repo.client.metrics import fetch_metrics, parse_metrics
from triton_repo.render.front import render_front
from triton_repo.render.llmapi import render_llmapi
from triton_repo.render.tensorrt import render_tensorrt
from triton_repo.serve.local import ServeOptions, Server, serve

pytestmark = [pytest.mark.e2e, pytest.mark.apart]

RUNTIME = Path(reference.__file__).parent
STAND_IN = Path(__file__).parent / "standin_tensorrt_llm.py"


@contextmanager
def served(repository: Path, folder: Path) -> Iterator[Server]:
    where = ServeOptions(state_dir=folder / "server", ports=free_ports(), detach=True)
    try:
        yield serve(repository, options=where, progress=quiet)
    finally:
        end_server(where.state_dir)


def check_answers(url: str, engine: Engine) -> None:
    """Whole and streamed answers of both text models are the golden ones, as far as those are decisive."""
    golden = next(answer for answer in engine.manifest.golden if answer.num_decisive == len(answer.token_ids))
    with Client(url) as client:
        for model in ("ensemble", "tensorrt_llm_bls"):
            for stream in (False, True):
                answer = client.generate(
                    golden.prompt, max_tokens=len(golden.token_ids), stream=stream, model=model, end_id=-1
                )
                assert answer.text == golden.text


def test_the_repository_of_compiled_engines_answers_with_the_reference_runtime_in_their_place(
    tiny_engine: Engine, tmp_path: Path
) -> None:
    build = EngineBuild(trtllm="1.2.1", tensorrt="10.14.1.48", cuda="13.1.0", arguments={}, command=("x",))
    manifest = tiny_engine.manifest.model_copy(update={"runtime": "tensorrt", "engine_build": build})
    options = TensorrtOptions(stand_in=True, num_threads=1)
    rendered = render_tensorrt(
        tiny_engine.folder, manifest, out=tmp_path / "repository", runtime_source=RUNTIME, options=options
    )
    with served(rendered.path, tmp_path) as running:
        check_answers(running.grpc_url, tiny_engine)


def llm_api_engine(tiny_engine: Engine, engine: Path) -> Manifest:
    """An engine of runtime pytorch, as far as a repository needs one; the reference runtime has its ranks."""
    shutil.copytree(tiny_engine.folder, engine)
    (engine / "model").mkdir()
    (engine / "model" / "config.json").write_text("{}")
    (engine / "llm.yaml").write_text("backend: pytorch\nmax_batch_size: 8\n")
    api = LlmApi(trtllm="1.2.1", arguments={})
    return tiny_engine.manifest.model_copy(update={"runtime": "pytorch", "llm_api": api})


def put_stand_ins(repository: Path) -> None:
    """For tensorrt_llm, and the runtime that it generates by."""
    version = repository / "tensorrt_llm" / "1"
    shutil.copyfile(STAND_IN, version / "tensorrt_llm.py")
    shutil.copytree(RUNTIME, version / "reference", ignore=shutil.ignore_patterns("__pycache__"))


def metrics_of(url: str) -> Callable[..., float | None]:
    """The sum of a metric's samples with some labels."""

    def total(name: str, **labels: str) -> float | None:
        samples = parse_metrics(fetch_metrics(url), source=url)
        found = [one.value for one in samples if one.name == name and labels.items() <= one.labels.items()]
        return sum(found) if found else None

    return total


def test_the_front_over_the_llm_api_answers_with_a_stand_in_for_the_llm_api(
    tiny_engine: Engine, tmp_path: Path
) -> None:
    engine, out = tmp_path / "engine", tmp_path / "repository"
    manifest = llm_api_engine(tiny_engine, engine)
    text = (engine / "llm.yaml").read_text()
    render_front(engine, manifest, out=out, options=PytorchOptions(), llm_yaml=text)
    put_stand_ins(out)
    with served(out, tmp_path) as running:
        check_answers(running.grpc_url, tiny_engine)
        total = metrics_of(running.metrics_url)
        assert total("nv_trt_llm_kv_cache_block_metrics", kv_cache_block_type="max") == 8
        assert (total("nv_llm_output_token_len_sum") or 0) >= 4


def is_open(port: int | None) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


def test_real_triton_shows_what_the_llm_api_holds_while_it_streams_and_after(
    tiny_engine: Engine, tmp_path: Path
) -> None:
    engine, out = tmp_path / "engine", tmp_path / "repository"
    manifest = llm_api_engine(tiny_engine, engine)
    text = (engine / "llm.yaml").read_text()
    render_llmapi(engine, manifest, out=out, options=PytorchOptions(), llm_yaml=text)
    put_stand_ins(out)
    with served(out, tmp_path) as running:
        total = metrics_of(running.metrics_url)
        requests, blocks = "nv_trt_llm_request_metrics", "nv_trt_llm_kv_cache_block_metrics"
        body = json.dumps({"text_input": "Hello", "streaming": True, "sampling_param_max_tokens": 900})
        where = urlsplit(running.http_url)
        wait_until(lambda: is_open(where.port), "the HTTP port, which opens after gRPC's")
        streams = [http.client.HTTPConnection(where.netloc, timeout=PATIENCE_S) for _ in range(3)]
        for stream in streams:
            stream.request("POST", "/v2/models/tensorrt_llm/generate_stream", body)
        answers = [stream.getresponse() for stream in streams]
        wait_until(lambda: total(requests, request_type="active") == 3)
        wait_until(lambda: total(blocks, kv_cache_block_type="used") == 3)
        assert total(blocks, kv_cache_block_type="fraction") == 3 / 8
        before = total("tpforge_model_progress") or 0
        wait_until(lambda: (total("tpforge_model_progress") or 0) > before)
        assert all(b"text_output" in answer.read() for answer in answers)
        for connection in (*answers, *streams):
            connection.close()
        wait_until(lambda: total(requests, request_type="active") == 0)
        assert total(blocks, kv_cache_block_type="used") == 0
        assert total("nv_llm_output_token_len_count") == 3


def test_real_triton_shows_them_too_where_the_model_answers_in_one_piece(
    tiny_engine: Engine, tmp_path: Path
) -> None:
    """Without streaming, execute waits for the answers while another thread sets the metrics."""
    engine, out = tmp_path / "engine", tmp_path / "repository"
    manifest = llm_api_engine(tiny_engine, engine)
    text = (engine / "llm.yaml").read_text()
    render_llmapi(engine, manifest, out=out, options=PytorchOptions(decoupled=False), llm_yaml=text)
    put_stand_ins(out)
    with served(out, tmp_path) as running:
        total = metrics_of(running.metrics_url)
        where = urlsplit(running.http_url)
        wait_until(lambda: is_open(where.port), "the HTTP port, which opens after gRPC's")
        body = json.dumps({"text_input": "Hello", "sampling_param_max_tokens": 300})
        for _ in range(3):
            asking = http.client.HTTPConnection(where.netloc, timeout=PATIENCE_S)
            asking.request("POST", "/v2/models/tensorrt_llm/generate", body)
            assert b"text_output" in asking.getresponse().read()
            asking.close()
        assert total("nv_llm_output_token_len_count") == 3
        assert total("nv_trt_llm_request_metrics", request_type="active") == 0
        assert (total("tpforge_model_progress") or 0) > 0
