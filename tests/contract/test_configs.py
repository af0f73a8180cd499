"""Every rendered config.pbtxt has upstream's fields: tensors, reshapes, batching, parameters, steps.

Upstream's are data (upstream/inflight_batcher_llm.toml); what is not as there is listed below, with why.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

import engines.reference
from engines.store import write_manifest
from tests.support.tiny_engine import write_tiny_engine
from tpforge.manifest import EngineBuild, Manifest
from tpforge.repository_options import ReferenceOptions, TensorrtOptions
from triton_repo.render.contract import MODELS
from triton_repo.render.repository import render
from triton_repo.render.tensorrt import render_tensorrt

UPSTREAM = tomllib.loads((Path(__file__).parent / "upstream" / "inflight_batcher_llm.toml").read_text())
RUNTIME = Path(engines.reference.__file__).parent

# When a client goes away, Triton 2.51 drops the ensemble's steps from a dynamic batcher's queue without
# ending the ensemble's request, which then stays in flight for ever.
WITHOUT_BATCHING = {"preprocessing", "postprocessing"}
# The default of the backend holds where a key is left out; upstream writes its template's variable there.
LEFT_OUT_UNSET = {
    "preprocessing": {"gpt_model_path", "hf_model_path", "max_num_images", "multimodal_model_path"},
    "tensorrt_llm": {
        *("encoder_model_path", "max_tokens_in_paged_kv_cache", "max_attention_window_size"),
        *("sink_token_length", "cross_kv_cache_fraction", "iter_stats_max_iterations"),
        *("request_stats_max_iterations", "gpu_device_ids", "participant_ids", "lora_prefetch_dir"),
        *("decoding_mode", "lookahead_window_size", "lookahead_ngram_size"),
        *("lookahead_verification_set_size", "medusa_choices", "eagle_choices", "cuda_graph_cache_size"),
    },
}


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runtimes reference and tensorrt, of one tiny engine."""
    folder = tmp_path_factory.mktemp("configs")
    engine, manifest, _ = write_tiny_engine(folder, tp_size=2)
    common = {"max_batch_size": 3, "max_queue_size": 5}
    (folder / "rendered").mkdir()
    reference = render(
        engine,
        manifest,
        out=folder / "rendered" / "reference",
        runtime_source=RUNTIME,
        options=ReferenceOptions(**common),
    )
    (engine / "engine").mkdir()
    for name in ("rank0.engine", "rank1.engine", "config.json"):
        (engine / "engine" / name).write_bytes(b"{}")
    build = EngineBuild(trtllm="1.2.1", tensorrt="10.14.1.48", cuda="13.1.0", arguments={}, command=("x",))
    compiled: Manifest = manifest.model_copy(update={"runtime": "tensorrt", "engine_build": build})
    write_manifest(engine, compiled)
    tensorrt = render_tensorrt(
        engine,
        compiled,
        out=folder / "rendered" / "tensorrt",
        runtime_source=RUNTIME,
        options=TensorrtOptions(**common, max_queue_delay_microseconds=7),
    )
    return {"reference": reference.path, "tensorrt": tensorrt.path}


def config_of(repository: Path, model: str) -> Any:
    text = (repository / model / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def tensor_rows(tensors: Any) -> list[list[Any]]:
    """As in the data: name, data type, dims, flags."""
    rows = []
    for tensor in tensors:
        flags = []
        if tensor.HasField("reshape"):
            flags.append("scalar" if not tensor.reshape.shape else f"reshape {list(tensor.reshape.shape)}")
        flags += ["optional"] if getattr(tensor, "optional", False) else []
        flags += ["ragged"] if getattr(tensor, "allow_ragged_batch", False) else []
        datatype = model_config_pb2.DataType.Name(tensor.data_type)
        rows.append([tensor.name, datatype, list(tensor.dims), flags])
    return rows


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("runtime", ["reference", "tensorrt"])
def test_every_tensor_is_upstreams_in_upstreams_order(
    repositories: dict[str, Path], runtime: str, model: str
) -> None:
    config = config_of(repositories[runtime], model)

    assert tensor_rows(config.input) == UPSTREAM[model]["inputs"]
    assert tensor_rows(config.output) == UPSTREAM[model]["outputs"]


@pytest.mark.parametrize("model", MODELS)
def test_backend_policies_and_instances_are_upstreams(repositories: dict[str, Path], model: str) -> None:
    config, expected = config_of(repositories["tensorrt"], model), UPSTREAM[model]

    assert (config.backend, config.platform) == (expected["backend"], expected["platform"])
    assert config.max_batch_size == 3
    assert config.model_transaction_policy.decoupled is expected["decoupled"]
    kinds = {model_config_pb2.ModelInstanceGroup.Kind.Name(group.kind) for group in config.instance_group}
    assert sorted(kinds) == expected["instance_kinds"]
    has_batching = "dynamic_batching" in expected and model not in WITHOUT_BATCHING
    assert config.HasField("dynamic_batching") is has_batching
    if has_batching:
        batching = config.dynamic_batching
        assert expected["dynamic_batching"] == [
            "preferred_batch_size",
            "max_queue_delay_microseconds",
            "default_queue_policy.max_queue_size",
        ]
        assert list(batching.preferred_batch_size) == [3]
        assert batching.max_queue_delay_microseconds == 7
        assert batching.default_queue_policy.max_queue_size == 5


@pytest.mark.parametrize("model", MODELS)
def test_every_parameter_of_upstream_is_there_unless_it_is_unset(
    repositories: dict[str, Path], model: str
) -> None:
    found = {
        key: value.string_value
        for key, value in config_of(repositories["tensorrt"], model).parameters.items()
    }
    expected = dict(UPSTREAM[model]["parameters"])

    assert set(expected) - set(found) == LEFT_OUT_UNSET.get(model, set())
    assert {key: found[key] for key, value in expected.items() if value} == {
        key: value for key, value in expected.items() if value
    }


def test_the_ensemble_joins_the_models_as_upstream_does(repositories: dict[str, Path]) -> None:
    for runtime in ("reference", "tensorrt"):
        found = [
            {
                "model": step.model_name,
                "model_version": step.model_version,
                "input_map": sorted(map(list, step.input_map.items())),
                "output_map": sorted(map(list, step.output_map.items())),
            }
            for step in config_of(repositories[runtime], "ensemble").ensemble_scheduling.step
        ]
        assert found == UPSTREAM["ensemble"]["steps"]
