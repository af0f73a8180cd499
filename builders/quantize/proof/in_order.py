"""Undoes the order that a runtime wants of INT4 matrices, so that the proof compares them in plain order.

Upstream's steps are undone one by one, with its tables; it shares no arithmetic with `interleave`.
Source: TensorRT-LLM 1.2, quantization/functional.py, preprocess_weights_for_mixed_gemm.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from builders.torch_types import TORCH_DTYPES
from tpforge.dtypes import DType
from tpforge.shards.packing import Packing

_ROWS = (
    *(0, 1, 8, 9, 16, 17, 24, 25, 2, 3, 10, 11, 18, 19, 26, 27),
    *(4, 5, 12, 13, 20, 21, 28, 29, 6, 7, 14, 15, 22, 23, 30, 31),
)
"""Which of 32 inputs upstream puts at each place."""
_WORD = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of the eight integers of a word upstream puts at each place of it."""


def in_plain_order(
    stored: Sequence[torch.Tensor], packing: Packing, *, dtype: DType
) -> tuple[torch.Tensor, ...]:
    """The stored tensors of a matrix in plain order; as they are where their types or sizes are others."""
    weight, scales, *rest = stored
    own = TORCH_DTYPES[dtype]
    if packing.order in ("sm80", "sm90"):
        inputs, outputs = weight.shape[0], weight.shape[-1] * 4
        if weight.dtype != own or weight.shape != (inputs, outputs // 4) or inputs % 64 or outputs % 4:
            return tuple(stored)
        return _plain(weight, tiled=packing.order == "sm80"), scales, *rest
    if packing.order == "modelopt":
        if weight.dtype != torch.int8 or rest[0].dim() != 1:
            return tuple(stored)
        return weight.T, scales.T, rest[0][None]
    return tuple(stored)


def _plain(weight: torch.Tensor, *, tiled: bool) -> torch.Tensor:
    """int8 [in, out / 2] of an interleaved matrix [in, out / 4] of 16-bit floats."""
    inputs, outputs = weight.shape[0], weight.shape[1] * 4
    held = weight.contiguous().view(torch.uint8).flatten()
    plain = torch.empty(inputs, outputs, dtype=torch.uint8)
    numbers = torch.empty(held.numel() * 2, dtype=torch.uint8)
    numbers[0::2], numbers[1::2] = held % 16, held // 16
    numbers = (numbers + 16 - 8) % 16
    words = torch.empty(numbers.numel() // 8, 8, dtype=torch.uint8)
    words[:, _WORD] = numbers.view(-1, 8)
    columns = words.view(outputs, inputs)
    if tiled:
        tiles = words.view(outputs // 4, inputs // 64, 4, 64)
        columns = torch.cat([tiles[:, tile] for tile in range(inputs // 64)], dim=2).view(outputs, inputs)
    for place, row in enumerate(_ROWS):
        plain[row::32] = columns[:, place::32].T
    return (plain[:, 0::2] + 16 * plain[:, 1::2]).view(torch.int8)
