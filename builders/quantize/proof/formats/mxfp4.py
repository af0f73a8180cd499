"""Proof of MXFP4: by looking for the largest power of two that is not above a group's largest size.

It shares no arithmetic with `builders.quantize.formats`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from builders.quantize.proof.formats.base import Proof, Tensors
from builders.quantize.proof.formats.numbers import e2m1_values, halves_in_bytes, nearest_e2m1
from tpforge.dtypes import DType


def _encode(matrix: torch.Tensor, dtype: DType) -> Tensors:
    groups = matrix.double().view(matrix.shape[0], -1, 32)
    largest = groups.abs().amax(-1, keepdim=True)
    powers = 2.0 ** torch.arange(-149, 128, dtype=torch.float64)
    exponent = (largest >= powers).sum(-1) - 1 - 149 - 2
    exponent = torch.where(largest[..., 0] == 0, -3, exponent).clamp(min=-127)
    ratio = groups / 2.0 ** exponent[..., None].double()
    codes = (nearest_e2m1(ratio) + 8 * torch.signbit(groups)).flatten(1)
    return halves_in_bytes(codes), (exponent + 127).to(torch.uint8)


def _decode(stored: Sequence[torch.Tensor]) -> torch.Tensor:
    weight, exponents = stored
    powers = 2.0 ** (exponents.double() - 127)
    return (e2m1_values(weight).double() * powers.repeat_interleave(32, 1)).float()


MXFP4 = Proof("mxfp4", decode=_decode, encode=_encode)
