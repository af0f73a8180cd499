"""The model repositories of TensorRT-LLM: parameters, parsed back, and the model over the LLM API."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import types
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

import engines.reference
from engines.store import read_manifest, write_manifest
from scripts.main import main
from tests.contract.fake_triton import Request, Server, TritonModelException
from tests.support.tiny import write_tiny_llama
from tests.support.tiny_engine import write_tiny_engine
from tpforge.errors import InputRefused, UsageError
from tpforge.manifest import EngineBuild, Manifest
from tpforge.repository_options import TensorrtOptions
from triton_repo.render.parameters import parameter_tables, settable
from triton_repo.render.tensorrt import render_tensorrt

RUNTIME = Path(engines.reference.__file__).parent


@pytest.fixture
def engine(tmp_path: Path) -> tuple[Path, Manifest]:
    """An engine folder as trtllm-build would leave it, with files that hold nothing."""
    folder, manifest, _ = write_tiny_engine(tmp_path, tp_size=2)
    (folder / "engine").mkdir()
    for name in ("rank0.engine", "rank1.engine", "config.json"):
        (folder / "engine" / name).write_bytes(b"{}")
    build = EngineBuild(trtllm="1.2.1", tensorrt="10.14.1.48", cuda="13.1.0", arguments={}, command=("x",))
    compiled = manifest.model_copy(update={"runtime": "tensorrt", "engine_build": build})
    write_manifest(folder, compiled)
    return folder, compiled


def render(engine: tuple[Path, Manifest], out: Path, **options: Any) -> Path:
    chosen = TensorrtOptions(**options)
    return render_tensorrt(*engine, out=out, runtime_source=RUNTIME, options=chosen).path


def config_of(repository: Path, model: str) -> Any:
    text = (repository / model / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def parameters_of(config: Any) -> dict[str, str]:
    return {key: value.string_value for key, value in config.parameters.items()}


def test_tensorrt_llm_is_upstreams_backend_with_every_parameter_that_it_wants(
    engine: tuple[Path, Manifest], tmp_path: Path
) -> None:
    repository = render(engine, tmp_path / "out", max_queue_size=7)
    config = config_of(repository, "tensorrt_llm")
    assert (config.backend, config.max_batch_size) == ("tensorrtllm", 4)
    assert config.model_transaction_policy.decoupled is True
    assert list(config.dynamic_batching.preferred_batch_size) == [4]
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 7
    parameters = parameters_of(config)
    assert parameters["gpt_model_path"] == str(engine[0] / "engine")
    assert parameters["gpt_model_type"] == "inflight_fused_batching"
    assert (parameters["kv_cache_free_gpu_mem_fraction"], parameters["FORCE_CPU_ONLY_INPUT_TENSORS"]) == (
        "0.9",
        "no",
    )
    assert parameters["xgrammar_tokenizer_info_path"] == ""
    assert "max_tokens_in_paged_kv_cache" not in parameters


def test_every_parameter_can_be_set(engine: tuple[Path, Manifest], tmp_path: Path) -> None:
    """One at a time, so that none of them contradicts another: what is refused names itself."""
    values = {"int": "3", "float": "0.5", "bool": "false", "str": "x", "ints": "64,32"}
    refused = []
    for number, one in enumerate(settable()):
        value = one.choices[0] if one.choices else values[one.type]
        try:
            repository = render(engine, tmp_path / f"out{number}", parameters={one.name: value})
        except InputRefused as error:
            refused.append(one.name)
            assert one.name in str(error)
            continue
        found = {
            key: text
            for model in parameter_tables()
            for key, text in parameters_of(config_of(repository, model)).items()
        }
        assert found[one.name] == ("3" if value == "3" else value)
    assert set(refused) == {
        *("max_beam_width", "max_tokens_in_paged_kv_cache", "gpu_weights_percent", "cuda_graph_cache_size"),
        *("lookahead_window_size", "lookahead_ngram_size", "lookahead_verification_set_size"),
        *("medusa_choices", "eagle_choices", "gpu_device_ids", "participant_ids", "lora_prefetch_dir"),
        "xgrammar_tokenizer_info_path",
    }


def test_two_instances_have_gpus_of_their_own(engine: tuple[Path, Manifest], tmp_path: Path) -> None:
    repository = render(engine, tmp_path / "out", parameters={"gpu_device_ids": "0,1;2,3"})
    config = config_of(repository, "tensorrt_llm")
    assert config.instance_group[0].count == 2
    assert parameters_of(config)["gpu_device_ids"] == "0,1;2,3"


def test_the_text_models_are_the_same_files_as_the_reference_runtimes(
    engine: tuple[Path, Manifest], tmp_path: Path
) -> None:
    compiled = render(engine, tmp_path / "compiled")
    stand_in = render(engine, tmp_path / "stand-in", stand_in=True)
    for model in ("preprocessing", "postprocessing", "tensorrt_llm_bls"):
        for path in sorted((compiled / model / "1").rglob("*.py")):
            other = stand_in / path.relative_to(compiled)
            assert path.read_bytes() == other.read_bytes()
    assert config_of(stand_in, "tensorrt_llm").backend == "python"
    assert (stand_in / "tensorrt_llm" / "1" / "reference" / "scheduler.py").is_file()


def test_the_text_models_have_upstreams_parameters_and_ours(
    engine: tuple[Path, Manifest], tmp_path: Path
) -> None:
    repository = render(engine, tmp_path / "out", parameters={"tensorrt_llm_draft_model_name": "draft"})
    bls = parameters_of(config_of(repository, "tensorrt_llm_bls"))
    assert bls["tensorrt_llm_draft_model_name"] == "draft"
    assert bls["tensorrt_llm_model_name"] == "tensorrt_llm"
    assert parameters_of(config_of(repository, "preprocessing"))["max_seq_len"] == "320"


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("engine/rank1.engine", "engine/rank1.engine: missing"),
        ("engine/config.json", "engine/config.json: missing"),
    ],
)
def test_an_engine_without_its_ranks_is_refused(
    engine: tuple[Path, Manifest], tmp_path: Path, missing: str, said: str
) -> None:
    (engine[0] / missing).unlink()
    with pytest.raises(InputRefused, match=said):
        render(engine, tmp_path / "out")


def test_an_unknown_parameter_names_the_nearest(engine: tuple[Path, Manifest], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"did you mean kv_cache_free_gpu_mem_fraction\?"):
        render(engine, tmp_path / "out", parameters={"kv_cache_free_gpu_memory_fraction": 0.8})


@dataclass
class Piece:
    text: str
    finish_reason: str | None = None
    stop_reason: str | None = None
    cumulative_logprob: float | None = None


@dataclass
class Output:
    """The stand-in's answer: upstream's RequestOutput, which is a future and a stream at once."""

    pieces: list[str]
    wait_s: float = 0
    outputs: list[Piece] = field(default_factory=list)
    aborted: bool = False

    async def aresult(self) -> Output:
        await asyncio.sleep(self.wait_s)
        text = "".join(self.pieces)
        self.outputs = [Piece(text, "stop", None, -1.5)]
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
        return Output(list(self.answer))

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
    model.initialize({})
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
    sys.modules.pop("llm_requests", None)


def text(*values: str) -> Any:
    return np.array([value.encode() for value in values], dtype=np.object_)


def test_the_llm_api_gets_the_engines_arguments(llm_repository: Path, tmp_path: Path) -> None:
    model = load_llm(llm_repository)
    engine = (tmp_path / "engine").resolve()
    assert StandInLlm.arguments == {
        "model": f"{engine}/model",
        "tokenizer": f"{engine}/tokenizer",
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


def test_the_table_of_parameters_has_a_meaning_for_each() -> None:
    assert len(settable()) == len({one.name for one in settable()}) > 40
    assert [one.name for one in settable() if not one.meaning] == []
