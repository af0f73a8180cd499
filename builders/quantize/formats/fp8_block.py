"""FP8 (e4m3) weights with one scale for each block of 128 x 128; the last blocks may be smaller.

scale = absmax / 448 in float32; a block of zeros has scale 0. The activations are quantized by the runtime.
Source: DeepSeek-V3 technical report, section 3.3; TensorRT-LLM 1.2, quantization/functional.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from builders.quantize.formats.base import Rows, Tensors, WeightFormat
from builders.quantize.formats.e4m3 import LARGEST, scaled_to_e4m3
from builders.sources.quantized.components import Components, joined
from tpforge.dtypes import DType
from tpforge.shards.packing import BLOCK, Packing


def pack_block(rows: Rows, shape: tuple[int, int], dtype: DType) -> Tensors:
    """The e4m3 matrix [out, in], and a float32 scale for each block."""
    num_rows, num_columns = shape
    weight = torch.empty(shape, dtype=torch.float8_e4m3fn)
    scales = torch.empty(-(-num_rows // BLOCK), -(-num_columns // BLOCK))
    for index, values in enumerate(_in_blocks(rows)):
        first = index * BLOCK
        for column in range(scales.shape[1]):
            held = slice(column * BLOCK, (column + 1) * BLOCK)
            scale = values[:, held].abs().amax() / LARGEST
            scales[index, column] = scale
            weight[first : first + values.shape[0], held] = scaled_to_e4m3(values[:, held], scale)
    return weight, scales


def _in_blocks(rows: Rows) -> Iterator[torch.Tensor]:
    """The same rows in float32, BLOCK at a time."""
    held: list[torch.Tensor] = []
    count = 0
    for block in rows:
        rest = block.float()
        while count + rest.shape[0] >= BLOCK:
            taken = BLOCK - count
            yield torch.cat([*held, rest[:taken]])
            rest, held, count = rest[taken:], [], 0
        if rest.shape[0]:
            held.append(rest)
            count += rest.shape[0]
    if held:
        yield torch.cat(held)


def _keep(parts: Sequence[Components], packing: Packing, dtype: DType) -> Tensors:
    whole = joined(parts)
    return whole.codes, whole.scales.float()


FP8_BLOCK = WeightFormat("fp8_block", pack=pack_block, keep=_keep)
