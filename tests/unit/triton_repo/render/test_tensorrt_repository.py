"""The model repositories of compiled engines: parameters, parsed back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

import engines.reference
from engines.store import write_manifest
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


def test_the_table_of_parameters_has_a_meaning_for_each() -> None:
    assert len(settable()) == len({one.name for one in settable()}) > 40
    assert [one.name for one in settable() if not one.meaning] == []


@pytest.mark.parametrize(
    ("window", "sliding", "windows", "reuse"),
    [
        (16, None, "16", "true"),  # Mistral
        (16, (True, False), "16,64", "false"),  # Gemma 2: every other layer sees everything
        (64, None, "", "true"),  # No request is longer than it.
        (None, None, "", "true"),
    ],
)
def test_windows_of_the_model_are_told_to_the_server(
    window: int | None,
    sliding: tuple[bool, ...] | None,
    windows: str,
    reuse: str,
    engine: tuple[Path, Manifest],
    tmp_path: Path,
) -> None:
    """A compiled engine sees everything unless the server is told: answers beyond a window would be wrong."""
    folder, manifest = engine
    assert manifest.model.num_layers == 2
    changed = {"sliding_window": window, "sliding_layers": sliding}
    attention = manifest.model.attention.model_copy(update=changed)
    limits = manifest.limits.model_copy(update={"max_seq_len": 64, "max_input_len": 32})
    model = manifest.model.model_copy(update={"attention": attention})
    with_windows = manifest.model_copy(update={"model": model, "limits": limits})
    found = parameters_of(config_of(render((folder, with_windows), tmp_path / "repository"), "tensorrt_llm"))
    assert found.get("max_attention_window_size", "") == windows
    assert found["enable_kv_cache_reuse"] == reuse
    own = {"max_attention_window_size": [32], "enable_kv_cache_reuse": True}
    stated = render((folder, with_windows), tmp_path / "stated", parameters=own)
    found = parameters_of(config_of(stated, "tensorrt_llm"))
    assert found["max_attention_window_size"] == "32"
    assert found["enable_kv_cache_reuse"] == "true"
