"""Lays the integers of an INT4 matrix out for the tensor cores, as TensorRT-LLM's loader takes W4A16_GPTQ.

What upstream does in five steps to the whole matrix is one permutation here, a block of outputs at a time.
An input k = 32 t + 8 a + 2 b + c (a, b < 4, c < 2) of an output lies at place 32 t + 8 b + 4 c + a of it, one
output after the other. Tiled (up to SM89), four outputs take turns every 64 places. A signed integer is
stored plus 8. `in_order` undoes it, written apart.
Source: TensorRT-LLM 1.2, quantization/functional.py, preprocess_weights_for_mixed_gemm (16-bit activations).
"""

from __future__ import annotations

import torch

TILE = 64
"""Inputs of a tile, and what the numbers of inputs and outputs must be multiples of."""
_BLOCK_BYTES = 1 << 22


def interleave(weight: torch.Tensor, *, tiled: bool) -> torch.Tensor:
    """The bytes of `weight`, int8 [in, out / 2] with the even output in the low half, in a new order."""
    num_inputs, half = weight.shape
    assert num_inputs % TILE == 0 and half % (TILE // 2) == 0, "the plan refuses other sizes"
    result = torch.empty(half * 2, num_inputs // 2, dtype=torch.uint8)
    step = max(2, _BLOCK_BYTES // num_inputs // 2 * 2)
    for first in range(0, half, step):
        block = weight[:, first : first + step].view(torch.uint8)
        result[2 * first : 2 * (first + block.shape[1])] = _block(block, tiled=tiled)
    return result.view(torch.int8).view(num_inputs, half)


def _block(block: torch.Tensor, *, tiled: bool) -> torch.Tensor:
    """The bytes of some outputs, a multiple of four: [out, in / 2]."""
    num_inputs, num_outputs = block.shape[0], block.shape[1] * 2
    both = block.T.contiguous() ^ 0x88  # Plus 8, modulo 16, in either half.
    codes = torch.stack((both & 15, both >> 4), dim=1)
    # Dims: outputs, t, a // 2, a % 2, and b with c.
    codes = codes.view(num_outputs, num_inputs // 32, 2, 2, 8)
    pairs = codes[:, :, :, 0] | (codes[:, :, :, 1] << 4)
    packed = pairs.transpose(2, 3).reshape(num_outputs, num_inputs // 2)
    if tiled:
        # Eight bytes at once: those of a tile stay together.
        wide = packed.view(torch.int64).view(num_outputs // 4, 4, num_inputs // TILE, TILE // 16)
        packed = wide.transpose(1, 2).reshape(-1).view(torch.uint8).view(num_outputs, num_inputs // 2)
    return packed
