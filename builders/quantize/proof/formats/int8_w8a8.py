"""Proof of INT8 weights with one scale for each row.

It shares no arithmetic with `builders.quantize.formats`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from builders.quantize.proof.formats.base import KeptMatrix, Proof, Tensors
from tpforge.dtypes import DType


def _kept(matrix: KeptMatrix, dtype: DType) -> Tensors:
    return matrix.codes.view(torch.int8), matrix.scales.flatten().float()


def _decode(stored: Sequence[torch.Tensor]) -> torch.Tensor:
    weight, scale = stored
    return weight.float() * scale[:, None]


INT8_W8A8 = Proof("int8_w8a8", decode=_decode, kept=_kept)
