"""From the stored tensors of a quantized matrix back to the float values that they stand for.

It is the other way of `packers`, written apart from them, so that the two prove each other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tpforge.packing import BLOCK, Packing

_E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])


def decode(stored: Sequence[torch.Tensor], packing: Packing) -> torch.Tensor:
    """The matrix [out, in] in float32 out of its stored tensors, in the order of `tpforge.packing`."""
    weight, scale = stored[0], stored[1]
    match packing.format:
        case "int8_wo":
            return weight.T.float() * scale.float()[:, None]
        case "int4_wo":
            return signed_halves(weight).T.float() * scale.float()[:, None]
        case "fp8_rowwise":
            return weight.float() * scale[:, None]
        case "fp8_block":
            spread = scale.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
            return weight.float() * spread[: weight.shape[0], : weight.shape[1]]
        case "mxfp4":
            numbers = _E2M1[torch.stack((weight % 16, weight // 16), dim=-1).flatten(1).long()]
            powers = 2.0 ** (scale.double() - 127)
            return (numbers.double() * powers.repeat_interleave(32, 1)).float()
        case "nvfp4":
            numbers = _E2M1[torch.stack((weight % 16, weight // 16), dim=-1).flatten(1).long()]
            return numbers * (scale.float() * stored[2]).repeat_interleave(16, 1)
        case "gptq" | "awq":
            codes = signed_halves(weight).float()
            group = codes.shape[0] // scale.shape[0]
            zeros = stored[2].float().repeat_interleave(group, 0)
            return (codes * scale.float().repeat_interleave(group, 0) + zeros).T
        case "int8_w8a8":
            return weight.float() * scale[:, None]
        case "fp8":
            return weight.float() * scale
        case "int8_sq":
            return weight.float() * scale[:, None] * stored[2]
        case "int4_awq":
            codes = signed_halves(weight).float()
            scales = scale.float().repeat_interleave(codes.shape[0] // scale.shape[0], 0)
            return (codes * scales).T * stored[2].float()
    raise AssertionError(f"no decoding of {packing.format}")


def signed_halves(packed: torch.Tensor) -> torch.Tensor:
    """Integers from -8 to 7, two in each byte of the last dim, the low half first."""
    numbers = packed.to(torch.int16) & 0xFF
    both = torch.stack((numbers % 16, numbers // 16), dim=-1).flatten(-2)
    return both - 16 * (both >= 8)
