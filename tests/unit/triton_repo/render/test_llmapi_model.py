"""The model over the LLM API: its tensors are upstream's, a request's faults are its own."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
import tomllib
import types
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from engines.store import read_manifest
from scripts.main import main
from tests.contract.fake_triton import MetricFamily, Request, Server, TritonModelException
from tests.support.tiny import write_tiny_llama

UPSTREAM = tomllib.loads((Path(__file__).parents[3] / "contract" / "upstream" / "llmapi.toml").read_text())
ITERATION = json.loads(
    (Path(__file__).parents[3] / "contract" / "upstream" / "iteration_stats.json").read_text()
)
PERF_METRICS = SimpleNamespace(
    kv_cache_metrics=SimpleNamespace(
        num_reused_blocks=3,
        num_missed_blocks=1,
        num_new_allocated_blocks=2,
        num_total_allocated_blocks=5,
        kv_cache_hit_rate=0.75,
    ),
    timing_metrics=SimpleNamespace(
        arrival_time=timedelta(seconds=100),
        first_scheduled_time=timedelta(seconds=100, microseconds=7),
        first_token_time=timedelta(days=1, seconds=1),
        last_token_time=timedelta(days=1, seconds=2),
    ),
    speculative_decoding=SimpleNamespace(
        acceptance_rate=0.5, total_accepted_draft_tokens=4, total_draft_tokens=8
    ),
)


@dataclass
class Piece:
    text: str
    finish_reason: str | None = None
    stop_reason: str | None = None
    cumulative_logprob: float | None = None
    request_perf_metrics: Any = None
    token_ids: tuple[int, ...] = (7, 8)


@dataclass
class Output:
    """The stand-in's answer: upstream's RequestOutput, which is a future and a stream at once."""

    pieces: list[str]
    wait_s: float = 0
    outputs: list[Piece] = field(default_factory=list)
    aborted: bool = False
    endless: bool = False
    perf_metrics: Any = None
    prompt_token_ids: tuple[int, ...] = (1, 2, 3)

    async def aresult(self) -> Output:
        await asyncio.sleep(self.wait_s)
        text = "".join(self.pieces)
        while self.endless and not self.aborted:
            await asyncio.sleep(0)
        self.outputs = [Piece(text, "stop", None, -1.5, self.perf_metrics)]
        return self

    async def __aiter__(self) -> AsyncIterator[Output]:
        for number in range(len(self.pieces)):
            await asyncio.sleep(self.wait_s)
            self.outputs = [Piece("".join(self.pieces[: number + 1]))]
            yield self

    def abort(self) -> None:
        self.aborted = True
        self.wait_s = 0


class StandInLlm:
    """A stand-in of tensorrt_llm.LLM: the same interface, no model."""

    arguments: dict[str, Any] = {}  # noqa: RUF012
    submitted: list[tuple[str, dict[str, Any], bool]] = []  # noqa: RUF012
    answer = ("Par", "is")

    def __init__(self, **arguments: Any) -> None:
        if arguments.get("max_seq_len") == 1:
            raise ValueError("max_seq_len is too small")
        StandInLlm.arguments = arguments

    def generate_async(self, prompt: str, params: dict[str, Any], *, streaming: bool) -> Output:
        StandInLlm.submitted.append((prompt, params, streaming))
        metrics = PERF_METRICS if params.get("return_perf_metrics") else None
        return Output(list(self.answer), endless=prompt == "endless", perf_metrics=metrics)

    async def get_stats_async(self, timeout: float) -> AsyncIterator[dict[str, Any]]:
        await asyncio.sleep(0)
        yield ITERATION["iteration"]
        await asyncio.sleep(timeout)

    def shutdown(self) -> None:
        pass


def load_llm(repository: Path) -> Any:
    path = repository / "tensorrt_llm" / "1" / "model.py"
    spec = importlib.util.spec_from_file_location("llm_model", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.TritonPythonModel()
    model.initialize({"model_name": "tensorrt_llm", "model_version": "1"})
    return model


@pytest.fixture
def llm_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The repository of a tiny engine of runtime pytorch, with stand-ins on the path."""
    model, engine = write_tiny_llama(tmp_path / "model"), tmp_path / "engine"
    limits = ["--max-seq-len", "64", "--max-batch-size", "4"]
    assert (
        main(["build", str(model), "--runtime", "pytorch", "--tp", "2", "--out", str(engine), *limits]) == 0
    )
    assert main(["render", str(engine)]) == 0
    repository = tmp_path / "repository"
    package = types.ModuleType("tensorrt_llm")
    package.LLM = StandInLlm  # type: ignore[attr-defined]
    package.SamplingParams = dict  # type: ignore[attr-defined]
    triton = Server().module
    triton.get_input_tensor_by_name = lambda request, name: next(  # type: ignore[attr-defined]
        (one for one in request.inputs() if one.name() == name), None
    )
    monkeypatch.setitem(sys.modules, "tensorrt_llm", package)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton)
    monkeypatch.syspath_prepend(str(repository / "tensorrt_llm" / "1"))
    StandInLlm.submitted.clear()
    yield repository
    for name in ("llm_requests", "llm_metrics", "llm_stats"):
        sys.modules.pop(name, None)


def text(*values: str) -> Any:
    return np.array([value.encode() for value in values], dtype=np.object_)


def test_the_llm_api_gets_the_engines_arguments(llm_repository: Path, tmp_path: Path) -> None:
    model = load_llm(llm_repository)
    engine = (tmp_path / "engine").resolve()
    assert StandInLlm.arguments == {
        "model": f"{engine}/model",
        "tokenizer": f"{engine}/tokenizer",
        "enable_iter_perf_stats": True,
        **(read_manifest(engine).llm_api or pytest.fail("no llm_api")).arguments,
    }
    model.finalize()


def test_a_request_is_answered_whole_with_what_it_asks_for(llm_repository: Path) -> None:
    model = load_llm(llm_repository)
    request = Request(
        {
            "text_input": text("The capital of France is "),
            "sampling_param_max_tokens": np.array([8], dtype=np.int32),
            "sampling_param_stop": text(".", ""),
            "sampling_param_exclude_input_from_output": np.array([False]),
            "return_finish_reason": np.array([True]),
            "return_cumulative_logprob": np.array([True]),
        }
    )
    assert model.execute([request]) is None
    answer, end = list(request.sender.until_final())
    assert answer.tensors["text_output"].tolist() == [b"The capital of France is Paris"]
    assert answer.tensors["finish_reason"].tolist() == [b"stop"]
    assert answer.tensors["cumulative_logprob"].tolist() == [-1.5]
    assert set(answer.tensors) == {"text_output", "finish_reason", "cumulative_logprob"}
    assert end.empty
    assert StandInLlm.submitted == [
        ("The capital of France is ", {"max_tokens": 8, "stop": ["."]}, False),
    ]
    model.finalize()


def test_a_stream_carries_the_text_so_far(llm_repository: Path) -> None:
    model = load_llm(llm_repository)
    request = Request({"text_input": text("x"), "streaming": np.array([True])})
    model.execute([request])
    first, second, end = list(request.sender.until_final())
    assert [first.tensors["text_output"][0], second.tensors["text_output"][0]] == [b"Par", b"Paris"]
    assert end.empty
    model.finalize()


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"text_input": text("a", "b")}, "text_input: expected one prompt"),
        ({"sampling_param_top_k": np.array([-1], dtype=np.int32)}, "top_k: found -1, expected 0 or more"),
        ({"sampling_param_top_p": np.array([2.0], dtype=np.float32)}, "top_p: found 2.0, expected 0 to 1"),
        ({"sampling_param_temperature": np.array([np.inf], dtype=np.float32)}, "temperature: found inf"),
        ({"sampling_param_presence_penalty": np.array([np.nan], dtype=np.float32)}, "penalty: found nan"),
        ({"text_input": np.array([b"\xff"], dtype=np.object_)}, "text_input: is not valid UTF-8"),
        ({"sampling_param_max_tokens": np.array([1, 2], dtype=np.int32)}, "expected one value, found 2"),
    ],
)
def test_what_would_end_the_engine_ends_the_request_alone(
    llm_repository: Path, tensors: dict[str, Any], said: str
) -> None:
    model = load_llm(llm_repository)
    request = Request({"text_input": text("x"), **tensors})
    model.execute([request])
    (only,) = list(request.sender.until_final())
    assert said in (only.error or "")
    assert StandInLlm.submitted == []
    model.finalize()


def test_refused_and_failed_requests_are_counted_apart(
    llm_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MetricFamily, "families", [])
    model = load_llm(llm_repository)

    def answered(**tensors: Any) -> str | None:
        request = Request({"text_input": text("x"), **tensors})
        model.execute([request])
        return next(iter(request.sender.until_final())).error

    def counted() -> dict[str, float]:
        return {
            family.name: sum(one.value for one in family.gauges.values())
            for family in MetricFamily.families
            if family.name.startswith("tpforge_requests")
        }

    assert answered() is None
    assert counted() == {}
    assert "top_p" in (answered(sampling_param_top_p=np.array([2.0], dtype=np.float32)) or "")
    assert counted() == {"tpforge_requests_refused": 1}
    monkeypatch.setattr(StandInLlm, "answer", None)
    assert "TypeError" in (answered() or "")
    assert counted() == {"tpforge_requests_refused": 1, "tpforge_requests_failed": 1}
    model.finalize()


def test_an_engine_that_does_not_load_ends_the_load(llm_repository: Path) -> None:
    file = llm_repository / "tensorrt_llm" / "1" / "model.yaml"
    file.write_text(file.read_text().replace("max_seq_len: 64", "max_seq_len: 1"))
    with pytest.raises(TritonModelException, match=r"refused model\.yaml: max_seq_len is too small"):
        load_llm(llm_repository)


def test_a_repository_whose_two_configs_disagree_on_streaming_is_found(
    llm_repository: Path,
) -> None:
    from triton_repo.render.check import check_llm_repository

    assert check_llm_repository(llm_repository) == []
    file = llm_repository / "tensorrt_llm" / "1" / "model.yaml"
    file.write_text(file.read_text().replace("decoupled: true", "decoupled: false"))
    assert check_llm_repository(llm_repository) == [
        "tensorrt_llm/config.pbtxt: decoupled is true in config.pbtxt, and not so in model.yaml"
    ]


def test_its_tensors_are_those_of_upstreams_file(llm_repository: Path) -> None:
    text_of_config = (llm_repository / "tensorrt_llm" / "config.pbtxt").read_text()
    config = text_format.Parse(text_of_config, model_config_pb2.ModelConfig())
    datatype = model_config_pb2.DataType.Name
    given = [[one.name, datatype(one.data_type), list(one.dims), one.optional] for one in config.input]
    assert given == UPSTREAM["inputs"]
    returned = [[one.name, datatype(one.data_type), list(one.dims), False] for one in config.output]
    assert returned == UPSTREAM["outputs"]


def test_the_performance_metrics_come_in_the_types_of_the_config(llm_repository: Path) -> None:
    model = load_llm(llm_repository)
    request = Request({"text_input": text("x"), "sampling_param_return_perf_metrics": np.array([True])})
    model.execute([request])
    answer, _end = list(request.sender.until_final())
    config = text_format.Parse(
        (llm_repository / "tensorrt_llm" / "config.pbtxt").read_text(), model_config_pb2.ModelConfig()
    )
    types_of = {"TYPE_INT32": np.int32, "TYPE_INT64": np.int64, "TYPE_FP32": np.float32}
    declared = {
        one.name: types_of[name]
        for one in config.output
        if (name := model_config_pb2.DataType.Name(one.data_type)) in types_of
        and one.name != "cumulative_logprob"
    }
    assert {
        name: array.dtype.type for name, array in answer.tensors.items() if name != "text_output"
    } == declared
    values = {name: array.item() for name, array in answer.tensors.items() if array.size == 1}
    assert values["kv_cache_reused_block"] == 3
    assert values["kv_cache_hit_rate"] == 0.75
    assert values["first_scheduled_time_ns"] == 100_000_007_000
    assert values["first_token_time_ns"] == 86_401 * 10**9
    assert values["total_draft_tokens"] == 8
    model.finalize()


def test_a_stop_ends_the_request_of_its_id(llm_repository: Path) -> None:
    model = load_llm(llm_repository)
    running = Request({"text_input": text("endless")}, id="r1")
    other = Request({"text_input": text("x")}, id="r2")
    model.execute([running])
    stop = Request({"text_input": text(""), "stop": np.array([True])}, id="r1")
    model.execute([stop, other])
    (refused,) = list(stop.sender.until_final())
    assert (refused.error, refused.code) == ("Request cancelled by client", "CANCELLED")
    assert list(running.sender.until_final())[-1].final
    assert next(iter(other.sender.until_final())).error is None
    nameless = Request({"text_input": text(""), "stop": np.array([True])})
    model.execute([nameless])
    (refused,) = list(nameless.sender.until_final())
    assert "A request id must be provided" in (refused.error or "")
    model.finalize()
