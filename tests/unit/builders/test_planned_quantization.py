"""builders.blueprint: a quantized checkpoint is planned as what it declares, or refused by its name.

What TensorRT-LLM loads is by its own loader (1.4: _torch/model_config.py, models/quant_config_utils.py),
bytes are by arithmetic on the shapes; published sizes are judged in tests/contract.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from builders.blueprint import find_blueprint
from scripts.main import main
from tpforge.dtypes import DType
from tpforge.errors import InputRefused
from tpforge.shards.mapping import Mapping
from tpforge.shards.weights import Blueprint, rank_shapes, weight_bytes

Config = dict[str, Any]
QWEN3: Config = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 1024,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def numbers(bits: int, kind: str, strategy: str, **more: Any) -> Config:
    """The description of weights or activations by compressed-tensors."""
    return {"num_bits": bits, "type": kind, "strategy": strategy, "symmetric": True, **more}


def compressed(weights: Config, inputs: Config | None, **more: Any) -> Config:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    return {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
        **more,
    }


def block_fp8(**more: Any) -> Config:
    return {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128], **more}


def write(folder: Path, quantization: object = None, *, files: dict[str, Config] | None = None) -> Path:
    config = dict(QWEN3) if quantization is None else {**QWEN3, "quantization_config": quantization}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for name, values in (files or {}).items():
        (folder / name).write_text(json.dumps(values), encoding="utf-8")
    return folder


def held_bytes(blueprint: Blueprint) -> int:
    shapes = rank_shapes(blueprint, mapping=Mapping())
    return weight_bytes(shapes, stage=0, dtype=DType.BFLOAT16, weight_format=blueprint.stored_format)


_TOKEN = numbers(8, "float", "token", dynamic=True)
_ROWS = numbers(8, "float", "channel")
_FP4 = numbers(4, "float", "tensor_group", group_size=16)
_TWO = {
    "first": {"targets": ["re:.*self_attn.*"], "weights": _ROWS, "input_activations": _TOKEN},
    "second": {"targets": ["Linear"], "weights": _FP4, "input_activations": _FP4},
}
REFUSED: dict[str, tuple[object, dict[str, Config], str]] = {
    "MLX under the usual key": ({"bits": 4, "group_size": 64, "mode": "affine"}, {}, "MLX"),
    "a text": ("4bit", {}, "'4bit'"),
    "a list": ([4], {}, r"\[4\]"),
    "GPTQ with act-order in its older file": (
        None,
        {"quantize_config.json": {"bits": 4, "group_size": 128, "desc_act": True}},
        r"GPTQ.*quantize_config.json.*desc_act \(act-order\)",
    ),
    "GPTQ with act-order": (
        {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True},
        {},
        r"by gptq.*desc_act \(act-order\)",
    ),
    "GPTQ of 8 bits": ({"quant_method": "gptq", "bits": 8, "group_size": 128}, {}, "found 8 bits"),
    "AWQ for another kernel": (
        {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemv"},
        {},
        "AWQ version 'gemv'",
    ),
    "bitsandbytes without its name": ({"load_in_8bit": True, "llm_int8_threshold": 6.0}, {}, "bitsandbytes"),
    "HQQ": ({"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4}}}, {}, "by hqq"),
    "EXL3": ({"quant_method": "exl3", "bits": 3.5, "head_bits": 6}, {}, "by exl3"),
    "torchao": ({"quant_method": "torchao", "quant_type": {"default": {}}}, {}, "by torchao"),
    "MXFP8": ({"quant_method": "mxfp8", "weight_block_size": [1, 32]}, {}, "are MXFP8"),
    "MXFP8 of ModelOpt": ({"quant_method": "modelopt", "quant_algo": "MXFP8"}, {}, "are MXFP8"),
    "FP8 in other blocks": (block_fp8(weight_block_size=[32, 32]), {}, r"blocks of \[32, 32\]"),
    "FP8 of a scale per matrix, dynamic": (block_fp8(weight_block_size=None), {}, "one scale for a matrix"),
    "FP8 weights alone": (compressed(_ROWS, None), {}, "float8 .*by channel, with activations as they are"),
    "INT8 weights alone": (
        compressed(numbers(8, "int", "channel"), None),
        {},
        "int8 .*activations as they are",
    ),
    "INT8 weights in groups": (
        compressed(numbers(8, "int", "group", group_size=128), None),
        {},
        "int8 .*by group of 128",
    ),
    "INT4 by rows": (compressed(numbers(4, "int", "channel"), None), {}, "int4 .*by channel"),
    "NVFP4 weights alone": (compressed(_FP4, None), {}, "float4 .*activations as they are"),
    "sparse matrices": (
        compressed(_ROWS, _TOKEN, sparsity_config={"format": "sparse-24-bitmask"}),
        {},
        "sparse-24-bitmask",
    ),
    "groups that select by class": (
        {"quant_method": "compressed-tensors", "config_groups": _TWO},
        {},
        "selects by Linear",
    ),
    "a group of no matrix": (
        {
            "quant_method": "compressed-tensors",
            "config_groups": {**_TWO, "second": {**_TWO["second"], "targets": ["re:.*feed_forward.*"]}},
        },
        {},
        "selects no matrix.*feed_forward",
    ),
    "a pattern that is none": (block_fp8(ignored_layers=["re:*("]), {}, r"re:\*\( is no regular expression"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_is_not_planned_is_refused_as_what_it_is(tmp_path: Path, case: str) -> None:
    quantization, files, words = REFUSED[case]
    with pytest.raises(InputRefused, match=words):
        find_blueprint(str(write(tmp_path, quantization, files=files)))


def test_the_key_of_mlx_alone_is_no_checkpoint_of_floats(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {**QWEN3, "quantization": {"bits": 4, "group_size": 64}}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert main(["plan", str(tmp_path), "--gpu", "h200-sxm"]) == 4
    assert "quantized (MLX: bits 4, group_size 64)" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["modules_to_not_convert", "exclude_modules", "ignored_layers", "ignore"])
@pytest.mark.parametrize(
    "entry", ["model.layers.1.mlp.down_proj", "*layers.1.mlp.down*", r"re:.*layers\.1\.mlp\.down"]
)
def test_modules_that_stay_floats_are_counted_so_by_every_key(tmp_path: Path, key: str, entry: str) -> None:
    blueprint = find_blueprint(str(write(tmp_path, block_fp8(**{key: [entry]}))))
    all_of_it = find_blueprint(str(write(tmp_path, block_fp8())))
    elements, scales = 256 * 512, 2 * 4
    assert held_bytes(blueprint) - held_bytes(all_of_it) == elements * 2 - (elements + 4 * scales)


KV: dict[str, tuple[Config, dict[str, Config], str | None]] = {
    "ModelOpt, named": (
        {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8"},
        {},
        "fp8",
    ),
    "ModelOpt, described": (
        {
            "quant_method": "modelopt",
            "quant_algo": "FP8",
            "kv_cache_scheme": {"dynamic": False, "num_bits": 8, "type": "float"},
        },
        {},
        "fp8",
    ),
    "ModelOpt, in the file beside": (
        {"quant_method": "modelopt", "quant_algo": "FP8"},
        {"hf_quant_config.json": {"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}},
        "fp8",
    ),
    "ModelOpt, the cache alone": (
        {"quant_method": "modelopt", "quant_algo": None, "kv_cache_quant_algo": "FP8"},
        {},
        "fp8",
    ),
    "compressed-tensors": (
        compressed(_ROWS, _TOKEN, kv_cache_scheme=numbers(8, "float", "tensor")),
        {},
        "fp8",
    ),
    "none": (compressed(_ROWS, _TOKEN, kv_cache_scheme=None), {}, None),
}


@pytest.mark.parametrize("case", list(KV))
def test_the_declared_kv_cache_is_the_one_that_is_planned(tmp_path: Path, case: str) -> None:
    quantization, files, expected = KV[case]
    assert find_blueprint(str(write(tmp_path, quantization, files=files))).stored_kv == expected


def _caches(folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> set[str]:
    assert (
        main(["plan", str(folder), "--gpu", "h200-sxm", "--isl", "100", "--osl", "100", "--json", *more]) == 0
    )
    return {one["kv_cache"] for one in json.loads(capsys.readouterr().out)["options"]}


def test_another_kv_cache_than_the_declared_one_is_planned_where_it_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, KV["ModelOpt, named"][0])
    assert _caches(tmp_path, capsys) == {"fp8"}
    assert _caches(tmp_path, capsys, "--kv", "bfloat16") == {"bfloat16"}
    write(tmp_path, KV["none"][0])
    assert _caches(tmp_path, capsys) == {"bfloat16", "fp8"}


def test_a_declared_kv_cache_that_is_not_planned_is_said(tmp_path: Path) -> None:
    quantization = {"quant_method": "modelopt", "quant_algo": "NVFP4", "kv_cache_quant_algo": "NVFP4"}
    found = find_blueprint(str(write(tmp_path, quantization)))
    assert found.stored_kv is None
    assert "a KV cache in nvfp4, which is not planned" in found.warnings[0]
