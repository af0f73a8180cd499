"""FP8 (e4m3) weights with one scale for each row.

scale = absmax / 448 in float32; a row of zeros has scale 0. The activations are quantized by the runtime as
it goes, so that nothing needs calibration.
Source: TensorRT-LLM 1.2, quantization/functional.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from builders.quantize.formats.base import Rows, Tensors, WeightFormat
from builders.quantize.formats.e4m3 import LARGEST, scaled_to_e4m3
from builders.sources.quantized.components import Components, joined
from tpforge.dtypes import DType
from tpforge.shards.packing import Packing


def pack_rowwise(rows: Rows, shape: tuple[int, int], dtype: DType) -> Tensors:
    """The e4m3 matrix [out, in], and the float32 scales [out]."""
    weight = torch.empty(shape, dtype=torch.float8_e4m3fn)
    scales = torch.empty(shape[0])
    first = 0
    for block in rows:
        stop = first + block.shape[0]
        values = block.float()
        scale = values.abs().amax(1) / LARGEST
        weight[first:stop] = scaled_to_e4m3(values, scale[:, None])
        scales[first:stop] = scale
        first = stop
    return weight, scales


def _keep(parts: Sequence[Components], packing: Packing, dtype: DType) -> Tensors:
    """The numbers [out, in] of a checkpoint, and the float32 scales [out]."""
    whole = joined(parts)
    return whole.codes, whole.scales.float().flatten()


FP8_ROWWISE = WeightFormat("fp8_rowwise", pack=pack_rowwise, keep=_keep)
