"""q, k and v of FP8 with a scale each become one matrix with one scale, bit for bit as TensorRT-LLM makes it.

The judge is upstream's arithmetic, step by step in float32: every code times its own scale, divided by the
largest of the three, rounded to e4m3.
Source: TensorRT-LLM 1.2, quantization/layers.py, FP8Linear.postprocess.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from builders.conversion.convert import convert
from builders.conversion.planned import plan_conversion
from builders.quantize.formats.fp8 import FP8
from builders.quantize.proof.formats.base import Kept, KeptMatrix
from builders.quantize.proof.formats.fp8 import FP8 as PROOF
from builders.sources import open_source
from builders.sources.quantized.components import Components
from engines.reference import load_config, open_executor
from engines.reference.batches import Logits, Prefill
from tests.support.families.configs import FamilyCase, tiny_model
from tests.support.families.proving import TOKENS
from tests.support.quantized.checkpoints import write_quantized
from tests.support.tiny import write_tiny_llama
from tests.support.tiny_engine import write_engine_of
from tpforge.dtypes import DType
from tpforge.manifest import Limits
from tpforge.quantization import Quantization
from tpforge.shards.mapping import Mapping
from tpforge.shards.packing import Packing

E4M3 = torch.float8_e4m3fn
# 127 and 255 are NaN.
CODES = torch.tensor([byte for byte in range(256) if byte % 128 != 127], dtype=torch.uint8).view(E4M3)
PACKING = Packing(Quantization(format="fp8"))
RATIOS = (1.0, 0.999, 0.75, 0.5, 1 / 3, 0.1, 0.013, 1e-3, 1e-6)


def upstream(codes: list[torch.Tensor], scales: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The bytes of the joined matrix and its scale."""
    largest = max(scales).reshape(1).to(torch.float32)
    joined = []
    for one, scale in zip(codes, scales, strict=True):
        values = one.to(torch.float32)
        values *= scale
        values /= largest
        joined.append(values.to(E4M3))
    return torch.cat(joined).view(torch.uint8), largest


def of(codes: torch.Tensor, scale: torch.Tensor, *, inputs: float) -> Components:
    """A matrix of a checkpoint with one scale."""
    return Components(
        codes=codes, scales=scale.reshape(1, 1), row_group=0, input_scale=torch.tensor([inputs])
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ratio", RATIOS)
def test_every_code_is_rounded_to_the_largest_scale_as_upstream_rounds_it(
    ratio: float, dtype: torch.dtype
) -> None:
    codes = [CODES.reshape(2, -1)] * 3
    scales = [torch.tensor(one, dtype=dtype) for one in (0.0173, 0.0173 * ratio, 0.0173 * ratio**0.5)]
    parts = [
        of(one, scale, inputs=0.01 * (1 + place))
        for place, (one, scale) in enumerate(zip(codes, scales, strict=True))
    ]
    expected, largest = upstream(codes, scales)

    assert FP8.keep is not None and PROOF.kept is not None
    kept = [
        Kept(
            codes=part.codes.view(torch.uint8),
            scales=part.scales.float().expand(part.codes.shape),
            zeros=None,
            input_scale=part.input_scale,
            column_scales=None,
            whole_scale=None,
        )
        for part in parts
    ]
    for made in (
        FP8.keep(parts, PACKING, DType.FLOAT16),
        PROOF.kept(KeptMatrix(tuple(kept), 0, 0), DType.FLOAT16),
    ):
        weight, scale, inputs = made
        assert torch.equal(weight.view(torch.uint8), expected)
        assert scale.float().tolist() == largest.tolist()
        assert inputs.tolist() == torch.tensor([0.03]).tolist()


@pytest.mark.parametrize("method", ["fp8", "fp8 static"])
def test_the_rank_file_of_a_checkpoint_holds_what_upstream_makes(tmp_path: Path, method: str) -> None:
    plain = write_tiny_llama(tmp_path / "plain", dtype="float16")
    tensors = load_file(plain / "model.safetensors")
    for name in tensors:
        # Scales far apart, as of models whose values are small.
        tensors[name] *= 0.01 if "v_proj" in name else 0.2 if "k_proj" in name else 1.0
    save_file(tensors, plain / "model.safetensors", {"format": "pt"})
    write_quantized(plain, tmp_path / "fp8", method=method)
    (tmp_path / "out").mkdir()
    with open_source(str(tmp_path / "fp8")) as source:
        planned = plan_conversion(source, mapping=Mapping(), quantization=Quantization(format="fp8"))
        convert(source, planned, out=tmp_path / "out")

    given = load_file(tmp_path / "fp8" / "model.safetensors")
    made = load_file(tmp_path / "out" / "rank0.safetensors")
    joined = [name for name in made if name.endswith("attention.qkv.weight")]
    assert joined
    for name in joined:
        layer = name.split(".")[2]
        modules = [f"model.layers.{layer}.self_attn.{one}_proj" for one in "qkv"]
        scales = [given[f"{one}.weight_scale"].reshape(()) for one in modules]
        assert len(set(map(float, scales))) == 3
        expected, largest = upstream([given[f"{one}.weight"] for one in modules], scales)
        assert torch.equal(made[name].view(torch.uint8), expected)
        assert torch.equal(made[name.replace("weight", "weights_scaling_factor")], largest)


def test_joining_is_all_that_parts_an_engine_from_the_checkpoints_own_values(tmp_path: Path) -> None:
    model = tiny_model(FamilyCase("llama", "llama", {}))
    model.save_pretrained(tmp_path / "plain")
    values = write_quantized(tmp_path / "plain", tmp_path / "fp8", method="fp8")
    given = load_file(tmp_path / "fp8" / "model.safetensors")
    joined = dict(values)
    for layer in range(model.config.num_hidden_layers):
        modules = [f"model.layers.{layer}.self_attn.{one}_proj" for one in "qkv"]
        codes = [given[f"{one}.weight"] for one in modules]
        rows, largest = upstream(codes, [given[f"{one}.weight_scale"] for one in modules])
        parts = (rows.view(E4M3).float() * largest).split([len(one) for one in codes])
        joined |= {f"{one}.weight": part for one, part in zip(modules, parts, strict=True)}

    folder, _ = write_engine_of(
        tmp_path / "fp8",
        tmp_path / "engine",
        mapping=Mapping(),
        limits=Limits(max_batch_size=1, max_input_len=32, max_seq_len=64),
        quantization=Quantization(format="fp8"),
    )
    executor = open_executor(
        load_config(folder), kind="lockstep", device="cpu", compute_dtype="float32", num_slots=1
    )
    found = executor.forward(Prefill(0, 0, TOKENS, Logits.ALL))
    assert found is not None
    of_joined, of_own = logits_of(model, joined), logits_of(model, values)
    scale = float(of_own.abs().max())
    assert float((found - of_joined).abs().max()) / scale < 5e-6
    assert float((of_own - of_joined).abs().max()) / scale > 0.01


def logits_of(model: PreTrainedModel, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """What transformers computes with these weights in place of the model's own."""
    model.load_state_dict(weights, strict=False)
    with torch.inference_mode():
        return cast("torch.Tensor", model(torch.tensor([TOKENS])).logits[0])
