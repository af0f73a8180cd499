"""Weight-only INT8 and INT4: one scale for each row of [out, in], integers transposed to [in, out].

scale = absmax / 128 (INT8) or / 8 (INT4) in float32; the integer is weight / scale, rounded half away from
zero and clipped; a row of zeros has scale 0 and integers 0. The integers are not interleaved for the tensor
cores of a GPU: trtllm-build does that to float weights itself (the portable form).
Source: TensorRT-LLM 1.2, quantization/functional.py (symmetric_quantize_last_axis_of_batched_matrix).
"""

from __future__ import annotations

import torch

from builders.quantize.formats.base import Rows, WeightFormat
from builders.torch_types import TORCH_DTYPES
from tpforge.dtypes import DType

# The float below 0.5: x + 0.5 would round 0.49999997 up.
_ALMOST_HALF = 0.49999997


def quantize_rows(weight: torch.Tensor, *, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The integers of `weight` [out, in] as int8, and the float32 scales [out]."""
    limit = 1 << (bits - 1)
    values = weight.float()
    scale = values.abs().amax(1) / limit
    values = values / scale.where(scale != 0, 1.0)[:, None]
    values += torch.full_like(values, _ALMOST_HALF).copysign_(values)
    return values.trunc_().clamp_(-limit, limit - 1).to(torch.int8), scale


def pack_int8(rows: Rows, shape: tuple[int, int], dtype: DType) -> tuple[torch.Tensor, ...]:
    """The integers [in, out], and the scales [out] in `dtype`."""
    return _transposed(rows, shape, dtype, bits=8)


def pack_int4(rows: Rows, shape: tuple[int, int], dtype: DType) -> tuple[torch.Tensor, ...]:
    """The integers [in, out / 2], even columns in the low half of a byte, and the scales [out]."""
    codes, scales = _transposed(rows, shape, dtype, bits=4)
    return (codes[:, ::2] & 0xF) | (codes[:, 1::2] << 4), scales


def _transposed(
    rows: Rows, shape: tuple[int, int], dtype: DType, *, bits: int
) -> tuple[torch.Tensor, torch.Tensor]:
    num_rows, num_columns = shape
    codes = torch.empty(num_columns, num_rows, dtype=torch.int8)
    scales = torch.empty(num_rows, dtype=TORCH_DTYPES[dtype])
    first = 0
    for block in rows:
        stop = first + block.shape[0]
        held, scale = quantize_rows(block, bits=bits)
        codes[:, first:stop] = held.T
        scales[first:stop] = scale.to(scales.dtype)
        first = stop
    assert first == num_rows, f"{first} rows came, {num_rows} were planned"
    return codes, scales


INT8_WO = WeightFormat("int8_wo", pack=pack_int8)
INT4_WO = WeightFormat("int4_wo", pack=pack_int4)
