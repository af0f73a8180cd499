"""From the stored tensors of a quantized matrix back to the float values that they stand for.

It is the other way of `packers`, written apart from them, so that the two prove each other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tpforge.packing import Packing


def decode(stored: Sequence[torch.Tensor], packing: Packing) -> torch.Tensor:
    """The matrix [out, in] in float32 out of its stored tensors, in the order of `tpforge.packing`."""
    weight, scale = stored[0], stored[1]
    match packing.format:
        case "int8_wo":
            return weight.T.float() * scale.float()[:, None]
        case "int4_wo":
            return signed_halves(weight).T.float() * scale.float()[:, None]
    raise AssertionError(f"no decoding of {packing.format}")


def signed_halves(packed: torch.Tensor) -> torch.Tensor:
    """Integers from -8 to 7, two in each byte of the last dim, the low half first."""
    numbers = packed.to(torch.int16) & 0xFF
    both = torch.stack((numbers % 16, numbers // 16), dim=-1).flatten(-2)
    return both - 16 * (both >= 8)
