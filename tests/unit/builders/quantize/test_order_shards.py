"""Rank files of INT4 in the order of TensorRT-LLM's loader: upstream's conversion, and their proof."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from builders.conversion.convert import Conversion, conversion_provenance
from builders.conversion.planned import plan_conversion
from builders.proof.verify import ShardReport, verify_shards
from builders.sources import open_source
from tests.support.quantized.int4_orders import LAYER, SMS, checkpoint, laid_out_ranks
from tests.support.quantized.interleaved import laid_out
from tpforge.errors import InputRefused
from tpforge.outputs.provenance import differences
from tpforge.quantization import Quantization
from tpforge.shards.mapping import Mapping


def prove(model: Path, out: Path, conversion: Conversion, **changes: Any) -> ShardReport:
    plan = conversion.plan
    if changes:
        assert plan.quantization is not None
        plan = type(plan)(
            model=plan.model,
            mapping=plan.mapping,
            padding=plan.padding,
            quantization=plan.quantization.model_copy(update=changes),
        )
    with open_source(str(model)) as source:
        return verify_shards(source, out, plan=plan, dtype=conversion.dtype)


def unpacked(words: torch.Tensor, method: str) -> np.ndarray:
    """The integers 0 to 15 [in, out] of a qweight."""
    places = (words.numpy().view(np.uint32)[..., None] >> np.arange(0, 32, 4, dtype=np.uint32)) & 15
    if method == "gptq":
        return places.transpose(0, 2, 1).reshape(-1, words.shape[1])
    return places[..., [0, 4, 1, 5, 2, 6, 3, 7]].reshape(words.shape[0], -1)


def parts(name: str) -> list[str]:
    names = {
        "attention.qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        "attention.dense": ["self_attn.o_proj"],
        "mlp.fc": ["mlp.gate_proj"],
        "mlp.gate": ["mlp.up_proj"],
        "mlp.proj": ["mlp.down_proj"],
    }
    return [f"model.layers.0.{one}" for one in names[name]]


def slice_of(array: Any, rank: int, tp_size: int, *, dim: int) -> Any:
    size = array.shape[dim] // tp_size
    window = slice(rank * size, (rank + 1) * size)
    return array[window] if dim == 0 else array[:, window]


@pytest.mark.parametrize("order", SMS)
@pytest.mark.parametrize("tp_size", [1, 2, 4])
@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_rank_files_are_what_upstreams_conversion_of_the_words_gives(
    tmp_path: Path, method: str, tp_size: int, order: str
) -> None:
    model = checkpoint(tmp_path, method)
    source = load_file(model / "model.safetensors")

    conversion, ranks = laid_out_ranks(model, tmp_path / "out", order=order, tp_size=tp_size)

    for name in ("attention.qkv", "attention.dense", "mlp.proj"):
        dim = 1 if name == "attention.qkv" else 0
        for rank, held in enumerate(ranks):
            codes, scales, zeros = [], [], []
            for module in parts(name):
                numbers = unpacked(source[f"{module}.qweight"], method).astype(np.int64)
                codes.append(slice_of(numbers, rank, tp_size, dim=dim) - 8)
                scale = source[f"{module}.scales"]
                scales.append(slice_of(scale, rank, tp_size, dim=dim))
                # GPTQ's first version packs zero points along the outputs, and stores them less one.
                packed = source[f"{module}.qzeros"]
                zero = (
                    unpacked(packed.T.contiguous(), "gptq").T + 1
                    if method == "gptq"
                    else unpacked(packed, method)
                )
                shifted = (8 - torch.from_numpy(zero.astype(np.int64))).to(torch.float16) * scale
                zeros.append(slice_of(shifted, rank, tp_size, dim=dim))
            whole = np.concatenate(codes, axis=1)
            weight = held[f"{LAYER}.{name}.weight"]
            assert (weight.dtype, weight.shape) == (torch.float16, (whole.shape[0], whole.shape[1] // 4))
            found = weight.view(torch.uint8).numpy().tobytes()
            assert found == laid_out(whole.tolist(), sm=SMS[order]), (name, rank)
            assert torch.equal(held[f"{LAYER}.{name}.weights_scaling_factor"], torch.cat(scales, 1))
            assert torch.equal(held[f"{LAYER}.{name}.zero"], torch.cat(zeros, 1))
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization"]
    assert (config["quant_algo"], config["has_zero_point"], config["group_size"]) == ("W4A16_GPTQ", True, 64)
    assert prove(model, tmp_path / "out", conversion).problems == ()


@pytest.mark.parametrize("tp_size", [1, 2, 4])
def test_modelopts_awq_is_left_as_modelopt_packs_it_for_trtllm_build_to_lay_out(
    tmp_path: Path, tp_size: int
) -> None:
    model = checkpoint(tmp_path, "modelopt awq")
    source = load_file(model / "model.safetensors")

    conversion, ranks = laid_out_ranks(model, tmp_path / "out", order="modelopt", tp_size=tp_size)

    for name in ("attention.qkv", "attention.dense", "mlp.fc", "mlp.gate", "mlp.proj"):
        dim = 1 if name in ("attention.dense", "mlp.proj") else 0
        for rank, held in enumerate(ranks):

            def cut(suffix: str, *, rank: int = rank, dim: int = dim, name: str = name) -> torch.Tensor:
                wholes = [source[f"{module}.{suffix}"] for module in parts(name)]
                return torch.cat([slice_of(one, rank, tp_size, dim=dim) for one in wholes])

            weight = held[f"{LAYER}.{name}.weight"]
            assert weight.dtype == torch.int8
            assert torch.equal(weight.view(torch.uint8), cut("weight")), (name, rank)
            assert torch.equal(held[f"{LAYER}.{name}.weights_scaling_factor"], cut("weight_scale"))
            inputs = source[f"{parts(name)[0]}.pre_quant_scale"]
            expected = slice_of(inputs, rank, tp_size, dim=0) if dim == 1 else inputs
            assert torch.equal(held[f"{LAYER}.{name}.prequant_scaling_factor"], expected)
    assert prove(model, tmp_path / "out", conversion).problems == ()


@pytest.mark.parametrize(
    ("method", "order"), [("gptq", "sm80"), ("awq", "sm90"), ("modelopt awq", "modelopt")]
)
def test_one_changed_byte_is_named(tmp_path: Path, method: str, order: str) -> None:
    model = checkpoint(tmp_path, method)
    conversion, _ = laid_out_ranks(model, tmp_path / "out", order=order, tp_size=2)
    path = tmp_path / "out" / "rank1.safetensors"
    tensors = load_file(path)
    tensors[f"{LAYER}.mlp.proj.weight"].view(torch.uint8).view(-1)[0] ^= 1
    save_file(tensors, path)

    (problem,) = prove(model, tmp_path / "out", conversion).problems

    assert problem.startswith(f"rank1: {LAYER}.mlp.proj.weight: 1 of")


def test_an_order_that_is_not_the_recorded_one_does_not_pass(tmp_path: Path) -> None:
    model = checkpoint(tmp_path, "gptq")
    conversion, _ = laid_out_ranks(model, tmp_path / "out", order="sm80", tp_size=2)

    assert len(prove(model, tmp_path / "out", conversion, order="sm90").problems) == 2 * 5
    assert len(prove(model, tmp_path / "out", conversion, order="plain").problems) == 2 * 5


def test_orders_of_the_same_sizes_are_conversions_of_their_own(tmp_path: Path) -> None:
    model = checkpoint(tmp_path, "gptq")
    made, headers = [], set()
    with open_source(str(model)) as source:
        assert source.quantized is not None
        layout = source.quantized.layout
        for order in SMS:
            quantization = Quantization(format=layout.format, group_size=layout.group, order=order)  # type: ignore[arg-type]
            planned = plan_conversion(source, mapping=Mapping(tp_size=2), quantization=quantization)
            headers.add(planned.rank_files[0].header)
            made.append(conversion_provenance(source, planned))
    assert len(headers) == 1
    assert differences(*made) == ["its quantization is another one"]
    assert len({one.identity for one in made}) == 2


def test_a_plan_in_an_order_that_does_not_fit_writes_nothing(tmp_path: Path) -> None:
    model = checkpoint(tmp_path, "modelopt awq", hidden_size=192)
    with pytest.raises(InputRefused, match="cannot be laid out for the engines of TensorRT-LLM"):
        laid_out_ranks(model, tmp_path / "out", order="modelopt", tp_size=2)
    assert list((tmp_path / "out").iterdir()) == []
