"""From the components of a rank's matrix to the tensors of its file.

A quantized checkpoint's numbers are kept; only their order changes. The exception is FP8 with a scale for
each matrix: where several are joined into one (q, k and v), the largest scale is taken for all, as
TensorRT-LLM does.
Source: TensorRT-LLM 1.2, models/convert_utils.py and quantization/layers.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from builders.quantize.formats.e2m1 import pack_e2m1
from builders.quantize.formats.fp8 import LARGEST
from builders.quantize.writing.interleave import interleave
from builders.sources.quantized.components import Components, joined
from builders.torch_types import TORCH_DTYPES
from tpforge.dtypes import DType
from tpforge.packing import Packing


def assemble(parts: Sequence[Components], packing: Packing, *, dtype: DType) -> tuple[torch.Tensor, ...]:
    """The stored tensors of matrices that lie one below the other, in the order of `tpforge.packing`."""
    match packing.format:
        case "gptq" | "awq":
            own = TORCH_DTYPES[dtype]
            weight, scales, zeros = _grouped(joined(parts), own)
            if packing.order != "plain":
                weight = interleave(weight, tiled=packing.order == "sm80").view(own)
            return weight, scales, zeros
        case "int8_w8a8" | "fp8_rowwise":
            whole = joined(parts)
            return whole.codes, whole.scales.float().flatten()
        case "fp8_block":
            whole = joined(parts)
            return whole.codes, whole.scales.float()
        case "fp8":
            return _one_scale(parts)
        case "nvfp4":
            whole = joined(parts)
            assert whole.whole_scale is not None and whole.input_scale is not None
            numbers = whole.codes.float()
            weight = pack_e2m1(numbers, torch.signbit(numbers))
            return weight, whole.scales, whole.whole_scale, whole.input_scale
        case "int8_sq":
            whole = joined(parts)
            assert whole.column_scales is not None and whole.input_scale is not None
            columns = whole.column_scales.float()
            return whole.codes, whole.scales.float().flatten(), columns, whole.input_scale
        case "int4_awq":
            whole = joined(parts)
            assert whole.column_scales is not None
            weight, scales, _ = _grouped(whole, TORCH_DTYPES[dtype])
            columns = whole.column_scales.to(TORCH_DTYPES[dtype])
            if packing.order == "modelopt":
                return weight.T, scales.T, columns
            return weight, scales, columns[None]
    raise AssertionError(f"{packing.format} is not read from checkpoints")


def _grouped(whole: Components, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Integers less 8, [in, out / 2], scales and (8 - zero) x scale, each [in / group, out]."""
    assert whole.zeros is not None
    codes = (whole.codes.to(torch.int8) - 8).T
    weight = (codes[:, ::2] & 0xF) | (codes[:, 1::2] << 4)
    scales = whole.scales.to(dtype)
    zeros = ((8 - whole.zeros.float()) * scales.float()).to(dtype)
    return weight, scales.T, zeros.T


def _one_scale(parts: Sequence[Components]) -> tuple[torch.Tensor, ...]:
    scale = torch.stack([part.scales.flatten() for part in parts]).amax(0)
    inputs = torch.stack([part.input_scale for part in parts if part.input_scale is not None]).amax(0)
    codes = []
    for part in parts:
        if torch.equal(part.scales.flatten(), scale):
            codes.append(part.codes)
        else:
            again = (part.values() / scale).clamp_(-LARGEST, LARGEST)
            codes.append(again.to(torch.float8_e4m3fn))
    return torch.cat(codes), scale, inputs
