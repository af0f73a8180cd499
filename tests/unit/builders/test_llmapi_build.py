"""`tpforge build --runtime pytorch`: llm.yaml, the engine folder, and what the LLM API does not load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors import safe_open

from builders.llm_api.arguments import LlmTarget, plan_llm
from engines.store import check_files, read_manifest
from scripts.main import main
from tests.support.tiny import write_tiny_llama
from tpforge.errors import InputRefused, UsageError
from tpforge.manifest import Limits
from tpforge.shards.mapping import Mapping
from tpforge.trtllm.dotted import nest
from tpforge.trtllm.versions import find_release

LIMITS = Limits(max_batch_size=64, max_input_len=2048, max_seq_len=4096)


def plan(given: dict[str, Any], *, tp: int = 4, ep: int = 1, sm: int | None = 90) -> dict[str, Any]:
    target = LlmTarget(find_release("1.2.1"), Mapping(tp_size=tp, moe_ep_size=ep), LIMITS, sm=sm)
    return plan_llm(target, given=given).nested


def test_the_recipe_becomes_the_arguments_of_the_llm_api() -> None:
    assert plan({}) == {
        "backend": "pytorch",
        "tensor_parallel_size": 4,
        "pipeline_parallel_size": 1,
        "max_batch_size": 64,
        "max_input_len": 2048,
        "max_seq_len": 4096,
    }


def test_experts_are_divided_as_moe_ep_says() -> None:
    found = plan({}, ep=2)
    assert (found["moe_expert_parallel_size"], found["moe_tensor_parallel_size"]) == (2, 2)


def test_nested_and_dotted_arguments_mean_the_same() -> None:
    dotted = {"kv_cache_config.dtype": "fp8", "kv_cache_config.max_attention_window": "4096,1024"}
    nested = {"kv_cache_config": {"dtype": "fp8", "max_attention_window": [4096, 1024]}}
    assert plan(dotted) == plan(nested)
    assert plan(dotted)["kv_cache_config"] == {"dtype": "fp8", "max_attention_window": [4096, 1024]}


def test_cuda_graphs_are_turned_off_by_null() -> None:
    assert plan({"cuda_graph_config": "null"})["cuda_graph_config"] is None


def test_a_field_of_another_speculation_is_refused() -> None:
    given = {"speculative_config": {"decoding_type": "NGram", "max_draft_len": 4, "relaxed_topk": 2}}
    with pytest.raises(InputRefused, match=r"relaxed_topk: is not a field of decoding_type NGram"):
        plan(given)


def test_speculation_of_the_other_backend_is_no_choice() -> None:
    with pytest.raises(UsageError, match="found 'Medusa', expected one of MTP, Eagle, Eagle3, NGram"):
        plan({"speculative_config.decoding_type": "Medusa"})


def test_dotted_names_become_levels() -> None:
    assert nest({"a.b": 1, "a.c": 2, "d": 3}) == {"a": {"b": 1, "c": 2}, "d": 3}


def build(model: Path, out: Path, *options: str) -> int:
    limits = ["--max-seq-len", "64", "--max-batch-size", "4"]
    return main(["build", str(model), "--runtime", "pytorch", "--out", str(out), *limits, *options])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = write_tiny_llama(tmp_path / "model")
    (folder / "pytorch_model.bin").write_bytes(b"a second copy")
    return folder


def test_an_engine_folder_holds_the_model_llm_yaml_and_the_tokenizer(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "engine"
    assert build(model, out, "--tp", "2", "--sm", "90", "--llm-arg", "enable_chunked_prefill=true") == 0
    manifest = read_manifest(out)
    assert manifest.llm_api is not None
    assert (manifest.runtime, manifest.llm_api.trtllm, manifest.llm_api.sm) == ("pytorch", "1.2.1", 90)
    assert check_files(out, manifest) == []
    found = yaml.safe_load((out / "llm.yaml").read_text())
    assert found["tensor_parallel_size"] == 2
    assert found["enable_chunked_prefill"] is True
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert {"engine.json", "llm.yaml", "model/config.json", "tokenizer/tokenizer.json"} <= names
    assert "model/pytorch_model.bin" not in names
    weights = next((model).glob("*.safetensors"))
    assert (out / "model" / weights.name).stat().st_ino == weights.stat().st_ino


def test_a_small_number_and_a_path_with_a_sign_reach_the_llm_api_as_they_are(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "a #b: 'c'")
    out, draft = tmp_path / "an #engine", str(tmp_path / "draft #1")
    given = {
        "kv_cache_config.free_gpu_memory_fraction": 1e-05,
        "speculative_config.decoding_type": "Draft_Target",
        "speculative_config.max_draft_len": 4,
        "speculative_config.speculative_model_dir": draft,
    }
    words = [word for name, value in given.items() for word in ("--llm-arg", f"{name}={value}")]
    assert build(model, out, "--sm", "90", *words) == 0
    found = yaml.safe_load((out / "llm.yaml").read_text(encoding="utf-8"))
    assert found["kv_cache_config"]["free_gpu_memory_fraction"] == 1e-05
    assert found["speculative_config"]["speculative_model_dir"] == draft
    assert main(["render", str(out), "--out", str(tmp_path / "repository"), "--front", "llmapi"]) == 0
    rendered = tmp_path / "repository" / "tensorrt_llm" / "1" / "model.yaml"
    served = yaml.safe_load(rendered.read_text(encoding="utf-8"))
    assert (served["model"], served["tokenizer"]) == (f"{out}/model", f"{out}/tokenizer")
    assert {key: served[key] for key in found} == found


def test_an_engine_without_rank_files_is_not_proven_but_its_files_are(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(model, tmp_path / "engine") == 0
    assert main(["verify", str(tmp_path / "engine")]) == 4
    assert "there are no rank files to prove" in capsys.readouterr().err
    (tmp_path / "engine" / "llm.yaml").write_text("backend: pytorch\n")
    assert main(["verify", str(tmp_path / "engine")]) == 6


def declare(model: Path, quantization: dict[str, Any]) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}))


def compressed(kind: str, bits: int, strategy: str, group: int | None = None) -> dict[str, Any]:
    weights = {"num_bits": bits, "type": kind, "strategy": strategy, "group_size": group}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": weights}}}


@pytest.mark.parametrize(
    ("quantization", "said"),
    [
        ({"quant_method": "gptq", "bits": 4}, "no code path that loads GPTQ"),
        ({"quant_method": "awq", "bits": 4}, "no code path that loads AutoAWQ"),
        (
            {"quant_method": "modelopt", "quant_algo": "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN"},
            "refuses the algorithm",
        ),
        (compressed("int", 8, "channel"), "wrong answers without an error"),
        (compressed("float", 8, "tensor"), "quantized in a way that the LLM API does not load"),
        (compressed("int", 4, "group", 128), "quantized in a way that the LLM API does not load"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "quantized in a way"),
        ({"quant_method": "fp8", "activation_scheme": "static"}, "quantized in a way"),
    ],
)
def test_what_the_loader_does_not_take_is_refused_before_it_tries(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    quantization: dict[str, Any],
    said: str,
) -> None:
    declare(model, quantization)
    assert build(model, tmp_path / "engine", "--sm", "90", "--dry-run") == 4
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("quantization", "sm", "algo"),
    [
        ({"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}, 90, "FP8"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, 90, "FP8_BLOCK_SCALES"),
        (compressed("float", 8, "channel"), 90, "FP8_PER_CHANNEL_PER_TOKEN"),
        (compressed("float", 4, "tensor_group", 16), 100, "NVFP4"),
    ],
)
def test_what_the_loader_takes_is_named_by_upstreams_algorithm(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    quantization: dict[str, Any],
    sm: int,
    algo: str,
) -> None:
    declare(model, quantization)
    assert build(model, tmp_path / "engine", "--sm", str(sm), "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["quant_algo"] == algo


def test_a_format_is_refused_on_a_gpu_that_has_no_kernel_for_it(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    declare(model, {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16})
    assert build(model, tmp_path / "engine", "--sm", "90", "--dry-run") == 4
    assert "SM90 is not supported" in capsys.readouterr().err


def test_all_that_would_need_another_checkpoint_is_refused_at_once(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(model, tmp_path / "engine", "--tp", "3", "--no-pad", "--quantize", "int8_wo") == 4
    said = capsys.readouterr().err
    assert "tp=3 does not divide LlamaForCausalLM without padding" in said
    assert "--quantize int8_wo: the LLM API loads a quantized Hugging Face checkpoint" in said
    assert not (tmp_path / "engine").exists()


def images_too(model: Path, *, without: tuple[str, ...] = (), **changes: Any) -> None:
    """Make the tiny llama one that declares its language model as models with images do."""
    found = json.loads((model / "config.json").read_text())
    text = {**found.get("text_config", found), **changes}
    text = {key: value for key, value in text.items() if key not in without}
    config = {"architectures": ["HCXVisionForCausalLM"], "model_type": "hyperclovax_vlm"}
    config |= {"vision_config": {"hidden_size": 9}, "text_config": text, "torch_dtype": "bfloat16"}
    (model / "config.json").write_text(json.dumps(config))


def test_a_model_that_only_the_llm_api_knows_is_taken_by_what_config_json_declares(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Of an architecture that is in no table either; sizes left to defaults of transformers are not known.
    images_too(model, without=("architectures", "vocab_size", "max_position_embeddings"))
    engine = tmp_path / "engine"
    assert build(model, engine, "--tp", "2") == 0
    assert "no family of ours reads it" in capsys.readouterr().err
    manifest = read_manifest(engine)
    assert manifest.model.architecture == "HCXVisionForCausalLM"
    attention = manifest.model.attention
    config = json.loads((model / "config.json").read_text())["text_config"]
    assert (attention.num_heads, attention.num_kv_heads, attention.head_size) == (
        config["num_attention_heads"],
        config["num_key_value_heads"],
        config["head_dim"],
    )
    with safe_open(model / "model.safetensors", framework="pt") as file:
        rows = file.get_slice("model.embed_tokens.weight").get_shape()[0]
    assert (manifest.model.vocab_size, manifest.model.special_tokens.end_ids) == (rows, (256,))
    assert check_files(engine, manifest) == []
    assert main(["render", str(engine)]) == 0
    assert build(model, tmp_path / "other", "--tp", "3") == 4
    assert "no padded checkpoint is written of HCXVisionFor" in capsys.readouterr().err
    images_too(model, num_experts=8)
    assert build(model, tmp_path / "other", "--tp", "2") == 4
    assert "has experts (num_experts)" in capsys.readouterr().err


def test_an_architecture_of_a_later_release_is_refused_with_the_release(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(
        json.dumps({**config, "architectures": ["GraniteForCausalLM"], "model_type": "granite"})
    )
    assert build(model, tmp_path / "engine", "--dry-run") == 4
    assert "1.3.0" in capsys.readouterr().err
