"""NVFP4 weights: e2m1 numbers in groups of 16 along a row, an e4m3 scale for each, and one for the matrix.

The matrix's float32 scale is absmax / (6 x 448), a group's absmax / (6 x the matrix's scale), kept within the
e4m3 numbers from 2^-9 to 448, and 1 for a group of zeros; each step is rounded to float32. A number is
divided by the product of both. Nothing is calibrated: the scale of the activations is 1, with which inputs up
to 2688 are not cut off.
Source: nvidia-modelopt 0.47, torch/quantization/qtensor/nvfp4_tensor.py; TensorRT-LLM 1.2,
models/modeling_utils.py, which reads tensors of these names and interleaves the scales as it loads them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from builders.quantize.formats.base import Rows, Tensors, WeightFormat
from builders.quantize.formats.e2m1 import pack_e2m1
from builders.sources.quantized.components import Components, joined
from tpforge.dtypes import DType
from tpforge.shards.packing import Packing

GROUP = 16
_LARGEST = 6.0
_LARGEST_SCALE = 448.0
_SMALLEST_SCALE = 2.0**-9


def pack_nvfp4(rows: Rows, shape: tuple[int, int], dtype: DType) -> Tensors:
    """The codes [out, in / 2], scales [out, in / 16], the matrix's scale [1], and that of its inputs [1].

    `rows` are gone through twice.
    """
    num_rows, num_columns = shape
    weight = torch.empty(num_rows, num_columns // 2, dtype=torch.uint8)
    scales = torch.empty(num_rows, num_columns // GROUP, dtype=torch.float8_e4m3fn)
    of_matrix = _largest(rows) / (_LARGEST * _LARGEST_SCALE)
    first = 0
    for block in rows:
        stop = first + block.shape[0]
        values = block.float().view(block.shape[0], -1, GROUP)
        scale = values.abs().amax(-1) / (_LARGEST * of_matrix)
        # Not above 0 is also what 0 / 0 gives in a matrix of zeros.
        scale = scale.where(scale > 0, 1.0).clamp_(_SMALLEST_SCALE, _LARGEST_SCALE)
        held = scale.to(torch.float8_e4m3fn)
        step = held.float() * of_matrix
        ratio = (values / step.where(step != 0, 1.0)[..., None]).flatten(1)
        weight[first:stop] = pack_e2m1(ratio, ratio < 0)
        scales[first:stop] = held
        first = stop
    return weight, scales, of_matrix, torch.ones(1)


def _largest(rows: Rows) -> torch.Tensor:
    """The largest size in a matrix, [1]."""
    largest = torch.zeros(1)
    for block in rows:
        low, high = torch.aminmax(block)
        largest = torch.maximum(largest, torch.maximum(-low, high).float())
    return largest


def _keep(parts: Sequence[Components], packing: Packing, dtype: DType) -> Tensors:
    """The very numbers and scales of a checkpoint."""
    whole = joined(parts)
    assert whole.whole_scale is not None and whole.input_scale is not None
    numbers = whole.codes.float()
    return pack_e2m1(numbers, torch.signbit(numbers)), whole.scales, whole.whole_scale, whole.input_scale


NVFP4 = WeightFormat("nvfp4", pack=pack_nvfp4, keep=_keep)
