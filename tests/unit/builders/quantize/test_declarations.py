"""What a quantization declares otherwise than a layout is read as: refused by its name, not passed over.

Spellings are those of transformers 5, GPTQModel, AutoAWQ, compressed-tensors and auto-round.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from builders.audit.survey import survey
from builders.quantize.proof import own_shapes
from builders.sources import locate, open_source
from builders.sources.quantized import layouts, reading
from scripts.main import main
from tests.support.quantized.checkpoints import CONFIGS, write_quantized
from tests.support.tiny import write_tiny_llama
from tests.unit.builders.quantize.test_checkpoints import SIZES
from tests.unit.builders.quantize.test_companions import proven
from tpforge.errors import InputRefused

HADAMARD = {
    "config_groups": {"u": {"type": "hadamard", "apply": [{"targets": ["Linear"], "location": "input"}]}}
}
INT8_TOKENS = {"num_bits": 8, "type": "int", "dynamic": True, "strategy": "token"}


def written(tmp_path: Path, method: str, **options: Any) -> Path:
    write_tiny_llama(tmp_path / "plain", **SIZES)
    write_quantized(tmp_path / "plain", tmp_path / "quantized", method=method, **options)
    return tmp_path / "quantized"


def declared(folder: Path, **changes: Any) -> Path:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] |= changes
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def scheme(folder: Path, **changes: Any) -> Path:
    """compressed-tensors' one group of modules, with other settings."""
    group = json.loads((folder / "config.json").read_text())["quantization_config"]["config_groups"][
        "group_0"
    ]
    return declared(folder, config_groups={"group_0": group | changes})


def refusal(folder: Path) -> str:
    with pytest.raises(InputRefused) as caught:
        open_source(str(folder))
    assert any(one in str(caught.value) for one in survey(locate(str(folder))).problems)
    return str(caught.value)


@pytest.mark.parametrize(
    ("method", "changes", "words"),
    [
        ("gptq", {"format": "marlin"}, "GPTQ checkpoint_format 'marlin' is not read"),
        ("gptq", {"is_marlin_format": True}, "is_marlin_format: found True"),
        ("gptq", {"adapter": {"name": "lora", "rank": 32}}, "which is added to the matrices"),
        ("gptq", {"act_bits": 8}, "act_bits: found 8"),
        ("gptq", {"extra_config": {"model.layers.0.mlp": {"bits": 8}}}, "settings of single modules"),
        ("awq", {"version": None, "format": "gemv"}, "AWQ version 'gemv' is not read"),
        ("awq", {"format": "gemv", "version": "GEMV_FAST"}, "AWQ version 'gemv_fast' is not read"),
        ("awq", {"backend": "llm-awq"}, "AWQ version 'llm-awq' is not read"),
        ("packed", {"transform_config": HADAMARD}, "rotations of what goes into and comes out"),
        ("int8", {"transform_config": HADAMARD}, "rotations of what goes into and comes out"),
        ("packed", {"sparsity_config": {"format": "sparse-24-bitmask"}}, "found format 'sparse-24-bitmask'"),
        ("packed", {"format": "marlin-24"}, "format: found 'marlin-24', expected pack-quantized"),
        ("packed nvfp4", {"format": "mxfp4-pack-quantized"}, "format: found 'mxfp4-pack-quantized'"),
        ("fp8 blocks", {"fmt": "e5m2"}, "fmt: found 'e5m2'"),
        ("fp8 blocks", {"expert_dtype": "fp4"}, "expert_dtype: found 'fp4'"),
        ("modelopt awq", {"has_zero_point": True}, "has_zero_point: found True"),
    ],
)
def test_a_declaration_that_computes_otherwise_is_refused_by_its_key(
    tmp_path: Path, method: str, changes: dict[str, Any], words: str
) -> None:
    assert words in refusal(declared(written(tmp_path, method), **changes))


def test_activations_of_int4_and_outputs_of_matrices_are_refused(tmp_path: Path) -> None:
    folder = scheme(written(tmp_path, "packed"), input_activations=INT8_TOKENS)
    assert "input_activations: found INT4 weights with quantized activations" in refusal(folder)
    scheme(folder, input_activations=None, output_activations=INT8_TOKENS)
    assert "output_activations: what comes out of a matrix is quantized too" in refusal(folder)


@pytest.mark.parametrize("method", ["int8", "fp8 rows", "fp8 static", "packed nvfp4"])
def test_weights_of_eight_bits_alone_are_not_taken_for_activations_too(tmp_path: Path, method: str) -> None:
    folder = written(tmp_path, method)
    with open_source(str(folder)) as source:
        assert source.quantized is not None
    for nothing in (None, {}):
        assert "input_activations: found none with" in refusal(scheme(folder, input_activations=nothing))


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("gptq", {"adapter": None, "act_bits": 16, "data_type": "int", "extra_config": {}, "format": "gptq"}),
        ("gptq", {"damp_percent": 0.1, "true_sequential": True, "meta": {"quantizer": ["gptqmodel:5"]}}),
        ("gptq", {"iters": 200, "nsamples": 128, "lr": None, "autoround_version": "0.8"}),
        ("awq", {"format": "GEMM", "version": None, "backend": "exllama_v2"}),
        ("packed", {"transform_config": {"config_groups": {}}, "sparsity_config": {"format": "dense"}}),
        ("fp8 blocks", {"fmt": "e4m3", "scale_fmt": "ue8m0", "modules_to_not_convert": ["lm_head"]}),
    ],
)
def test_a_declaration_that_says_the_same_in_more_words_is_read(
    tmp_path: Path, method: str, changes: dict[str, Any]
) -> None:
    with open_source(str(declared(written(tmp_path, method), **changes))) as source:
        assert source.quantized is not None


@pytest.mark.parametrize("key", ["format", "checkpoint_format"])
def test_zero_points_of_the_second_version_are_read_by_either_key(tmp_path: Path, key: str) -> None:
    """Transformers 5 writes `format`; until 4.57 it was `checkpoint_format`, which still comes first."""
    folder = written(tmp_path, "gptq")
    tensors = load_file(folder / "model.safetensors")
    for name in tensors:
        if name.endswith("qzeros"):
            # One more in each of the eight places of a word; 15 is no zero point of the first version.
            tensors[name] = tensors[name] + 0x11111111
    save_file(tensors, folder / "model.safetensors")
    plain = tmp_path / "values"
    plain.mkdir()
    values = write_quantized(tmp_path / "plain", plain / "again", method="gptq")
    declared(folder, **{key: "gptq_v2"})
    with open_source(str(folder)) as source:
        for name, expected in values.items():
            assert torch.allclose(source.read(name), expected, atol=1e-6)
    assert proven(folder, tmp_path / "out") == []


def even(folder: Path, *, stored: int) -> Path:
    """All zero points stored as one number; what the matrices stand for is then of no matter."""
    tensors = load_file(folder / "model.safetensors")
    word = sum(stored * 16**place for place in range(8))
    signed = word - 2**32 if word >= 2**31 else word
    for name in tensors:
        if name.endswith("qzeros"):
            tensors[name] = torch.full_like(tensors[name], signed)
    save_file(tensors, folder / "model.safetensors")
    return declared(folder, sym=True)


@pytest.mark.parametrize(("version", "stored"), [("gptq", 7), ("gptq_v2", 8)])
def test_symmetric_matrices_of_the_declared_version_are_read(
    tmp_path: Path, version: str, stored: int
) -> None:
    folder = declared(even(written(tmp_path, "gptq"), stored=stored), checkpoint_format=version)
    assert proven(folder, tmp_path / "out") == []


@pytest.mark.parametrize(("version", "stored", "other"), [("gptq", 8, "gptq_v2"), ("gptq_v2", 7, "gptq")])
def test_symmetric_matrices_of_the_other_version_are_refused_and_proven_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, stored: int, other: str
) -> None:
    folder = declared(even(written(tmp_path, "gptq"), stored=stored), checkpoint_format=version)
    words = refusal(folder)
    assert f"found zero points stored as {stored}" in words and f"checkpoint_format {other}" in words
    monkeypatch.setattr(reading, "_uneven", lambda *_, **__: [])
    assert len(proven(folder, tmp_path / "out")) == 7


def test_the_older_file_of_autogptq_is_believed_by_the_proof_too(tmp_path: Path) -> None:
    folder = written(tmp_path, "gptq")
    config = json.loads((folder / "config.json").read_text())
    (folder / "quantize_config.json").write_text(json.dumps(config.pop("quantization_config")))
    (folder / "config.json").write_text(json.dumps(config))
    assert proven(folder, tmp_path / "out") == []
    assert own_shapes._declared(folder)["group_size"] == 32


def test_a_quantized_head_is_refused_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = written(tmp_path, "gptq")
    tensors = load_file(folder / "model.safetensors")
    head = "model.layers.0.mlp.gate_proj"
    tensors |= {name.replace(head, "lm_head"): one.clone() for name, one in tensors.items() if head in name}
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors")
    assert main(["inspect", str(declared(folder, lm_head=True))]) == 4
    assert "lm_head.weight: is quantized" in capsys.readouterr().err
    assert main(["build", str(folder), "--out", str(tmp_path / "engine")]) == 4


def test_mlxs_quantization_is_named(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    for more in ({}, {"quantization_config": {"group_size": 64, "bits": 4}}):
        held = config | {"quantization": {"group_size": 64, "bits": 4}} | more
        (folder / "config.json").write_text(json.dumps(held))
        assert "the weights are quantized (MLX: bits 4, group_size 64)" in refusal(folder)


@pytest.mark.parametrize("method", CONFIGS)
def test_what_is_published_declares_nothing_that_is_refused(method: str) -> None:
    values = CONFIGS[method](32)
    assert not list(layouts.declaration_problems(values["quant_method"], values))


@pytest.mark.parametrize(
    "said",
    [
        {"kv_cache_quant_algo": "FP8"},
        {"kv_cache_scheme": {"dynamic": False, "num_bits": 8, "type": "float"}},
        {"kv_cache_quant_algo": None, "kv_cache_scheme": None},
    ],
)
def test_modelopts_kv_cache_is_read_by_its_name_and_by_its_numbers(said: dict[str, object]) -> None:
    expected = "fp8" if any(said.values()) else None
    assert layouts.find_layout("modelopt", {"quant_algo": "FP8", **said}).kv_cache == expected


def test_a_kv_cache_of_other_numbers_is_refused() -> None:
    scheme = {"dynamic": False, "num_bits": 4, "type": "float"}
    with pytest.raises(InputRefused, match="of float4 is not read"):
        layouts.find_layout("modelopt", {"quant_algo": "NVFP4", "kv_cache_scheme": scheme})
