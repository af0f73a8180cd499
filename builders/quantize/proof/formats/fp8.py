"""Proof of FP8 with one scale for the matrix: where parts are joined, the largest, for all of them.

It shares no arithmetic with `builders.quantize.formats`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from builders.quantize.proof.formats.base import Kept, KeptMatrix, Proof, Tensors
from builders.quantize.proof.formats.numbers import nearest_e4m3
from tpforge.dtypes import DType


def _kept(matrix: KeptMatrix, dtype: DType) -> Tensors:
    scale = torch.tensor([max(float(part.scales.max()) for part in matrix.parts)])
    again = [_requantized(part, scale) for part in matrix.parts]
    return torch.cat(again), scale, matrix.input_scale


def _requantized(part: Kept, scale: torch.Tensor) -> torch.Tensor:
    held = part.codes.view(torch.float8_e4m3fn)
    if float(part.scales.max()) == float(scale):
        return held
    values = (held.float() * part.scales).double()
    return nearest_e4m3(values, scale.expand(values.shape))


def _decode(stored: Sequence[torch.Tensor]) -> torch.Tensor:
    return stored[0].float() * stored[1]


FP8 = Proof("fp8", decode=_decode, kept=_kept)
