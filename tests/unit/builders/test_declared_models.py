"""Checkpoints of architectures that no family reads: transformers writes tiny ones, the table knows them.

The judge is the checkpoint itself: the sum of its headers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from builders.llm_api.engine import plan_llm_engine
from builders.llm_api.model import open_llm_model
from scripts.main import main
from tests.support.tiny import write_tiny_tokenizer
from tpforge.errors import InputRefused
from tpforge.recipe import EngineRecipe
from tpforge.trtllm.versions import release_for

BASE: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 128,
    "vocab_size": 288,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "eos_token_id": 2,
}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LATENT = {
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
MODELS: dict[str, dict[str, Any]] = {
    "Qwen3NextForCausalLM": {
        **EXPERTS,
        "shared_expert_intermediate_size": 32,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
    },
    "DeepseekV3ForCausalLM": {**LATENT, "num_key_value_heads": 4},
    "Glm4MoeForCausalLM": {
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
        "use_qk_norm": True,
    },
    "SmolLM3ForCausalLM": {"pad_token_id": 0},
    "SeedOssForCausalLM": {},
    "Olmo3ForCausalLM": {"sliding_window": 32, "pad_token_id": 0},
    "Exaone4ForCausalLM": {"sliding_window": 32, "sliding_window_pattern": 4},
    "Cohere2ForCausalLM": {"sliding_window": 32, "tie_word_embeddings": True, "pad_token_id": 0},
    "AfmoeForCausalLM": {**EXPERTS, "num_shared_experts": 1, "num_dense_layers": 1, "sliding_window": 32},
    "HunYuanDenseV1ForCausalLM": {},
    "HunYuanMoEV1ForCausalLM": {"num_experts": 8, "moe_topk": 2},
    "GraniteMoeHybridForCausalLM": {
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": 48,
        "mamba_n_heads": 8,
        "mamba_d_head": 16,
        "mamba_n_groups": 2,
        "mamba_d_state": 16,
        "layer_types": ["mamba", "full_attention", "mamba", "mamba"],
    },
}
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
MODELS |= {
    "Gemma3ForConditionalGeneration": {
        "text_config": {**BASE, "tie_word_embeddings": True},
        "vision_config": {**VISION, "image_size": 56, "patch_size": 14},
        "mm_tokens_per_image": 4,
        "tie_word_embeddings": True,
    },
    "Mistral3ForConditionalGeneration": {
        "text_config": {**BASE, "model_type": "mistral"},
        "vision_config": {**VISION, "model_type": "pixtral", "image_size": 56, "patch_size": 14},
        "tie_word_embeddings": False,
    },
    "LlavaNextForConditionalGeneration": {
        "text_config": {**BASE, "model_type": "llama"},
        "vision_config": {**VISION, "model_type": "clip_vision_model", "image_size": 56, "patch_size": 14},
        "tie_word_embeddings": False,
    },
    "Exaone4_5_ForConditionalGeneration": {
        "text_config": {**BASE, "model_type": "exaone4", "sliding_window": 32, "sliding_window_pattern": 4},
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 48,
            "depth": 2,
            "num_heads": 2,
            "num_key_value_heads": 1,
            "out_hidden_size": 64,
            "patch_size": 14,
            "spatial_merge_size": 2,
        },
    },
    "Qwen2_5_VLForConditionalGeneration": {
        "text_config": {key: value for key, value in BASE.items() if key != "head_dim"},
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 48,
            "depth": 2,
            "num_heads": 2,
            "out_hidden_size": 64,
            "patch_size": 14,
            "spatial_merge_size": 2,
        },
    },
}


def write_model(folder: Path, name: str, **changed: Any) -> Path:
    """A tiny checkpoint by transformers, with a tokenizer; `changed` are keys of its config.json."""
    import torch
    import transformers

    kind = getattr(transformers, name)
    values = MODELS[name] if "text_config" in MODELS[name] else {**BASE, **MODELS[name]}
    torch.manual_seed(0)
    model = kind(kind.config_class.from_dict(values))
    model.to(torch.bfloat16).save_pretrained(folder)
    write_tiny_tokenizer(folder, vocab_size=288)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": [name], **changed}))
    return folder


def inspected(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    status = main(["inspect", str(folder), "--json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return status, found


@pytest.mark.parametrize("name", MODELS)
def test_a_sound_checkpoint_is_inspected_and_its_parameters_are_those_of_its_headers(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_model(tmp_path / "model", name)
    status, found = inspected(folder, capsys)
    assert (status, found["problems"]) == (0, [])
    tensors = load_file(folder / "model.safetensors")
    assert found["num_parameters"] == sum(one.numel() for one in tensors.values())
    whole, halves = found["divisions"][0]["rank_bytes"], found["divisions"][1]["rank_bytes"]
    assert whole == [2 * found["num_parameters"]]
    assert whole[0] < sum(halves) < 2 * whole[0]
    served = {one["runtime"]: one["serves"] for one in found["runtimes"]}
    assert served == {"reference": False, "tensorrt": False, "pytorch": True}


def test_a_size_that_the_tensors_contradict_is_refused_with_both_sums(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_model(tmp_path / "model", "Qwen3NextForCausalLM", moe_intermediate_size=48)
    status, found = inspected(folder, capsys)
    assert status == 4
    assert any("the tensors hold 329,640 parameters, config.json implies" in one for one in found["problems"])


def test_missing_layers_are_named_and_prediction_layers_are_not_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    folder = write_model(tmp_path / "model", "DeepseekV3ForCausalLM", num_nextn_predict_layers=1)
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {**tensors, "model.layers.4.eh_proj.weight": torch.zeros(64, 128)}, folder / "model.safetensors"
    )
    assert inspected(folder, capsys)[0] == 0
    kept = {name: one for name, one in tensors.items() if ".layers.2." not in name}
    save_file(kept, folder / "model.safetensors")
    status, found = inspected(folder, capsys)
    assert status == 4
    assert any("of 4 layers the tensors of 2 are missing" in one for one in found["problems"])


def test_a_config_with_one_tensor_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "SmolLM3ForCausalLM")
    tensors = load_file(folder / "model.safetensors")
    first = "model.embed_tokens.weight"
    save_file({first: tensors[first]}, folder / "model.safetensors")
    with pytest.raises(InputRefused, match="the tensors hold 18,432 parameters"):
        open_llm_model(str(folder), release=release_for("1.2.1", runtime="pytorch"))


def test_an_engine_of_the_llm_api_is_planned_with_the_sizes_of_the_table(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "Qwen3NextForCausalLM")
    recipe = EngineRecipe(model=str(folder), runtime="pytorch", trtllm="1.2.1", tp=4, moe_ep=4, sm=90)
    engine = plan_llm_engine(recipe, out=tmp_path / "engine", sm=90)
    assert engine.model.spec.moe is not None
    assert engine.model.spec.moe.num_experts == 8
    assert engine.plan.arguments["moe_expert_parallel_size"] == 4
    assert engine.padding.notes == ()


def test_ranks_that_do_not_divide_it_are_refused_with_those_that_do(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "DeepseekV3ForCausalLM")
    recipe = EngineRecipe(model=str(folder), runtime="pytorch", trtllm="1.2.1", tp=8, sm=90)
    with pytest.raises(InputRefused, match=r"4 attention heads.*use tp=1, 2, 4"):
        plan_llm_engine(recipe, out=tmp_path / "engine", sm=90)


def _quantized(folder: Path, algorithms: dict[str, str]) -> None:
    """Store some matrices of a checkpoint as ModelOpt does, and say so: FP8 with a scale each."""
    import torch

    tensors = load_file(folder / "model.safetensors")
    held = {}
    for name, one in tensors.items():
        module = name.removesuffix(".weight")
        if module in algorithms:
            held[name] = one.to(torch.float8_e4m3fn)
            held[f"{module}.weight_scale"] = torch.ones(1)
            held[f"{module}.input_scale"] = torch.ones(1)
        else:
            held[name] = one
    save_file(held, folder / "model.safetensors")
    layers = {module: {"quant_algo": algorithm} for module, algorithm in algorithms.items()}
    config = json.loads((folder / "config.json").read_text())
    declared = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": layers}
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": declared}))


def test_a_checkpoint_of_mixed_formats_is_judged_matrix_by_matrix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_model(tmp_path / "model", "SmolLM3ForCausalLM")
    names = [f"model.layers.{layer}.mlp.{one}_proj" for layer in range(4) for one in ("gate", "up", "down")]
    _quantized(folder, dict.fromkeys(names, "FP8"))
    status, found = inspected(folder, capsys)
    assert (status, found["problems"]) == (0, [])
    tensors = load_file(folder / "model.safetensors").values()
    stored = sum(one.numel() * one.element_size() for one in tensors)
    assert found["divisions"][0]["rank_bytes"] == [stored]
    recipe = EngineRecipe(model=str(folder), runtime="pytorch", trtllm="1.2.1", sm=90)
    with pytest.raises(InputRefused, match=r"SmolLM3ForCausalLM in TensorRT-LLM 1\.3\.0rc20"):
        plan_llm_engine(recipe, out=tmp_path / "engine", sm=90)


def test_a_mixture_that_misnames_its_matrices_is_refused_by_the_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_model(tmp_path / "model", "SmolLM3ForCausalLM")
    names = [f"model.layers.{layer}.mlp.{one}_proj" for layer in range(4) for one in ("gate", "up", "down")]
    _quantized(folder, dict.fromkeys(names, "FP8"))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["quantized_layers"].pop("model.layers.2.mlp.gate_proj")
    (folder / "config.json").write_text(json.dumps(config))
    status, found = inspected(folder, capsys)
    assert status == 4
    assert any("config.json and its quantization imply" in one for one in found["problems"])
