"""Tensors beside quantized matrices are held to the matrix and the declaration; the proof trusts neither.

Groups of another size than declared, blocks of another size, wrong zero points: refused at inspect; and where
the reader is made to pass over them, the proof says so by the tensors' own shapes.
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
from builders.quantize.proof.verification import dequantized_weights
from builders.sources import locate, open_source
from builders.sources.quantized import gptq, reading
from builders.sources.safetensors_reader import SafetensorsFile
from tests.support.quantized.checkpoints import CONFIGS, write_quantized
from tests.support.tiny import write_tiny_llama
from tests.unit.builders.quantize.test_checkpoints import SIZES, shard
from tpforge.errors import InputRefused

DOWN = "model.layers.0.mlp.down_proj"
GROUPED = ("gptq", "awq", "packed", "packed zeros", "modelopt awq")


def written(tmp_path: Path, method: str, **options: Any) -> Path:
    write_tiny_llama(tmp_path / "plain", **SIZES)
    write_quantized(tmp_path / "plain", tmp_path / "quantized", method=method, **options)
    return tmp_path / "quantized"


def regrouped(folder: Path, method: str, *, group: int) -> None:
    """down_proj of the folder in other groups than config.json declares."""
    plain = folder.parent / "plain"
    write_quantized(plain, folder.parent / "other", method=method, group=group)
    others = load_file(folder.parent / "other" / "model.safetensors")
    tensors = load_file(folder / "model.safetensors")
    tensors |= {name: one for name, one in others.items() if name.startswith(DOWN)}
    save_file(tensors, folder / "model.safetensors")


def changed(folder: Path, **tensors: torch.Tensor) -> None:
    held = load_file(folder / "model.safetensors")
    held |= {f"{DOWN}.{suffix}": one for suffix, one in tensors.items()}
    save_file(held, folder / "model.safetensors")


def refusal(folder: Path) -> str:
    with pytest.raises(InputRefused) as caught:
        open_source(str(folder))
    words = str(caught.value)
    assert any(one in words for one in survey(locate(str(folder))).problems)
    return words


@pytest.mark.parametrize("group", [16, 64])
@pytest.mark.parametrize("method", GROUPED)
def test_finer_and_coarser_groups_than_declared_are_refused_by_name(
    tmp_path: Path, method: str, group: int
) -> None:
    folder = written(tmp_path, method, group=32)
    regrouped(folder, method, group=group)
    words = refusal(folder)
    assert DOWN in words and f"its own groups are of {group}" in words and "in groups of 32" in words


@pytest.mark.parametrize(
    ("method", "suffix", "tensor", "words"),
    [
        ("gptq", "g_idx", torch.zeros(8, dtype=torch.int32), "g_idx: found shape [8], expected [512]"),
        ("gptq", "qzeros", torch.zeros(16, 1, dtype=torch.int32), "qzeros: found shape [16, 1]"),
        ("gptq", "scales", torch.zeros(16, 256, dtype=torch.int32), "scales: found type I32"),
        ("packed", "weight_shape", torch.tensor([2]), "weight_shape: found shape [1], expected [2]"),
        ("fp8 blocks", "weight_scale_inv", torch.ones(4, 8), "found shape [4, 8], expected [2, 4]"),
        ("fp8 rows", "weight_scale", torch.ones(3, 1), "found shape [3, 1], expected [256, 1]"),
        ("fp8", "weight_scale", torch.ones(256), "found shape [256], expected []"),
        ("smooth", "pre_quant_scale", torch.ones(256), "pre_quant_scale: found shape [256], expected [512]"),
    ],
)
def test_companions_of_a_wrong_shape_or_type_are_refused(
    tmp_path: Path, method: str, suffix: str, tensor: torch.Tensor, words: str
) -> None:
    folder = written(tmp_path, method)
    changed(folder, **{suffix: tensor})
    assert words in refusal(folder)


@pytest.mark.parametrize("value", [0.0, -0.5, float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("method", "suffix"),
    [
        ("fp8", "weight_scale"),
        ("fp8", "input_scale"),
        ("fp8 static", "weight_scale"),
        ("smooth", "input_scale"),
        ("modelopt nvfp4", "weight_scale_2"),
        ("packed nvfp4", "weight_global_scale"),
    ],
)
def test_a_scale_of_a_whole_matrix_is_a_positive_number(
    tmp_path: Path, method: str, suffix: str, value: float
) -> None:
    folder = written(tmp_path, method)
    held = load_file(folder / "model.safetensors")[f"{DOWN}.{suffix}"]
    changed(folder, **{suffix: torch.full_like(held, value)})
    assert f"{DOWN}.{suffix}: found {value}, expected one positive number" in refusal(folder)


@pytest.mark.parametrize("group", [16, 64])
def test_dynamic_rules_are_refused_by_that_name(tmp_path: Path, group: int) -> None:
    rules = {"+:.*down_proj.*": {"group_size": group}}
    folder = written(tmp_path, "gptq", dynamic=rules)
    regrouped(folder, "gptq", group=group)
    words = refusal(folder)
    assert f"dynamic: the rule '+:.*down_proj.*' gives some modules group_size {group}" in words
    assert "desc_act" not in words


def test_dynamic_rules_that_change_nothing_are_read(tmp_path: Path) -> None:
    folder = written(tmp_path, "gptq", dynamic={"-:.*lm_head.*": {}, ".*down_proj.*": {"bits": 4}})
    with open_source(str(folder)) as source:
        assert source.quantized is not None


@pytest.mark.parametrize("method", CONFIGS)
def test_own_shapes_give_the_values_that_were_written(tmp_path: Path, method: str) -> None:
    write_tiny_llama(tmp_path / "plain", **SIZES)
    values = write_quantized(tmp_path / "plain", tmp_path / "quantized", method=method)
    assert own_shapes.differing(tmp_path / "quantized", values) == []
    wrong = {name: one * 1.1 for name, one in values.items()}
    assert len(own_shapes.differing(tmp_path / "quantized", wrong)) == len(values)


def proven(folder: Path, out: Path) -> list[str]:
    """What the proof says of a conversion of the folder."""
    conversion = shard(folder, out, tp_size=1)
    with open_source(str(folder)) as source:
        file = SafetensorsFile(out / "rank0.safetensors")
        held = dict(dequantized_weights(source, [file], plan=conversion.plan, dtype=conversion.dtype))
        file.close()
    return own_shapes.differing(folder, held)


@pytest.mark.parametrize("method", CONFIGS)
def test_a_right_conversion_is_proven_by_own_shapes(tmp_path: Path, method: str) -> None:
    assert proven(written(tmp_path, method), tmp_path / "out") == []


@pytest.mark.parametrize("method", ["gptq", "awq", "packed"])
def test_a_reader_that_passes_over_finer_groups_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    folder = written(tmp_path, method, group=32)
    regrouped(folder, method, group=16)
    monkeypatch.setattr(reading, "companion_problems", lambda *_, **__: ())
    monkeypatch.setattr(reading.QuantizedWeights, "_check_order", lambda *_, **__: None)
    (problem,) = proven(folder, tmp_path / "out")
    assert problem.startswith(f"{DOWN}.weight: what the ranks stand for differs from the source's own")


def test_a_reader_that_adds_nothing_to_gptqs_zero_points_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = written(tmp_path, "gptq")
    right = gptq.read_gptq

    def wrong(read: Any, module: str, *, group: int, zero_offset: int) -> Any:
        return right(read, module, group=group, zero_offset=0)

    monkeypatch.setattr(gptq, "read_gptq", wrong)
    assert len(proven(folder, tmp_path / "out")) == 7


def test_the_declaration_of_the_second_version_of_gptq_is_the_only_thing_that_is_believed(
    tmp_path: Path,
) -> None:
    folder = written(tmp_path, "gptq")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["checkpoint_format"] = "gptq_v2"
    (folder / "config.json").write_text(json.dumps(config))
    assert proven(folder, tmp_path / "out") == []


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_biases_of_zeros_beside_quantized_matrices_change_nothing(tmp_path: Path, method: str) -> None:
    folder = written(tmp_path, method)
    shard(folder, tmp_path / "without", tp_size=2)
    changed(folder, bias=torch.zeros(256, dtype=torch.float16))
    shard(folder, tmp_path / "with", tp_size=2)
    for rank in range(2):
        one, other = (load_file(tmp_path / name / f"rank{rank}.safetensors") for name in ("without", "with"))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert survey(locate(str(folder))).dropped[f"{DOWN}.bias"].startswith("a bias of zeros")
    changed(folder, bias=torch.ones(256, dtype=torch.float16))
    words = f"{DOWN}.bias: has values, but the model of this config.json has no bias there"
    assert words in survey(locate(str(folder))).problems
    with pytest.raises(InputRefused, match=r"down_proj\.bias: has values"):
        shard(folder, tmp_path / "values", tp_size=2)
