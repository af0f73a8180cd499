"""The numbers of small types, found by looking them up among all there are; and packed integers.

Formats are not known here.
"""

from __future__ import annotations

import torch

E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=torch.float64)
"""The sizes of the e2m1 numbers by their codes; a code of 8 and more is a negative number."""


def nearest_e4m3(matrix: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The nearest of all e4m3 numbers to matrix / scale, the even code of two that are as near."""
    ratio = torch.where(scale == 0, 0.0, matrix.double() / scale.double()).float()
    numbers = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).double()
    middles = (numbers[1:] + numbers[:-1]) / 2
    size = ratio.abs().double()
    below, above = torch.bucketize(size, middles), torch.bucketize(size, middles, right=True)
    codes = torch.where(below % 2 == 0, below, above)
    # 0 / 1 keeps the sign of a zero.
    return (codes + 128 * torch.signbit(matrix)).to(torch.uint8).view(torch.float8_e4m3fn)


def nearest_e2m1(ratio: torch.Tensor) -> torch.Tensor:
    """The codes of the e2m1 numbers that are nearest in size."""
    distance = (ratio.abs()[..., None] - E2M1).abs()
    # Of two that are as near the even code: it is a hair nearer than the odd one.
    return (distance + 1e-9 * (torch.arange(8) % 2)).argmin(-1)


def e2m1_values(packed: torch.Tensor) -> torch.Tensor:
    """The float32 numbers of codes, two in each byte of a row, the low half first."""
    codes = torch.stack((packed % 16, packed // 16), dim=-1).flatten(1).long()
    return torch.cat((E2M1, -E2M1)).float()[codes]


def halves_in_bytes(codes: torch.Tensor) -> torch.Tensor:
    """Numbers from 0 to 15, two in a byte along the last dim, the first in the low half."""
    return (codes[..., 0::2] + 16 * codes[..., 1::2]).to(torch.uint8)


def signed_halves(packed: torch.Tensor) -> torch.Tensor:
    """Integers from -8 to 7, two in each byte of the last dim, the low half first."""
    numbers = packed.to(torch.int16) & 0xFF
    both = torch.stack((numbers % 16, numbers // 16), dim=-1).flatten(-2)
    return both - 16 * (both >= 8)


def shifted_halves(codes: torch.Tensor) -> torch.Tensor:
    """int8 [in, out / 2] of integers [out, in] that are stored plus 8."""
    return halves_in_bytes((codes.T.to(torch.int16) - 8) % 16).view(torch.int8)
