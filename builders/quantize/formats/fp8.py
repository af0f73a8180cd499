"""FP8 (e4m3) weights, with one scale for each row, or for each block of 128 x 128.

scale = absmax / 448 in float32, 448 being the largest e4m3 value; a row or block of zeros has scale 0. The
activations are quantized by the runtime as it goes, so that nothing needs calibration.
Source: TensorRT-LLM 1.2, quantization/functional.py (rowwise); DeepSeek-V3 technical report, section 3.3
(blocks; the last ones may be smaller).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from tpforge.dtypes import DType
from tpforge.packing import BLOCK

LARGEST = 448.0


def pack_rowwise(
    rows: Iterable[torch.Tensor], shape: tuple[int, int], dtype: DType
) -> tuple[torch.Tensor, ...]:
    """The e4m3 matrix [out, in], and the float32 scales [out]."""
    weight = torch.empty(shape, dtype=torch.float8_e4m3fn)
    scales = torch.empty(shape[0])
    first = 0
    for block in rows:
        stop = first + block.shape[0]
        values = block.float()
        scale = values.abs().amax(1) / LARGEST
        weight[first:stop] = _e4m3(values, scale[:, None])
        scales[first:stop] = scale
        first = stop
    return weight, scales


def pack_block(
    rows: Iterable[torch.Tensor], shape: tuple[int, int], dtype: DType
) -> tuple[torch.Tensor, ...]:
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
            weight[first : first + values.shape[0], held] = _e4m3(values[:, held], scale)
    return weight, scales


def _e4m3(values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """values / scale, rounded to nearest even and saturated."""
    ratio = values / scale.where(scale != 0, 1.0)
    return ratio.clamp_(-LARGEST, LARGEST).to(torch.float8_e4m3fn)


def _in_blocks(rows: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
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
