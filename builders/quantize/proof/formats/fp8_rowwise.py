"""Proof of FP8 with one scale for each row.

It shares no arithmetic with `builders.quantize.formats`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from builders.quantize.proof.formats.base import KeptMatrix, Proof, Tensors
from builders.quantize.proof.formats.numbers import nearest_e4m3
from tpforge.dtypes import DType


def _encode(matrix: torch.Tensor, dtype: DType) -> Tensors:
    scale = (matrix.double().abs().amax(1) / 448).float()
    return nearest_e4m3(matrix, scale[:, None].expand(matrix.shape)), scale


def _kept(matrix: KeptMatrix, dtype: DType) -> Tensors:
    return matrix.codes.view(torch.float8_e4m3fn), matrix.scales.flatten().float()


def _decode(stored: Sequence[torch.Tensor]) -> torch.Tensor:
    weight, scale = stored
    return weight.float() * scale[:, None]


FP8_ROWWISE = Proof("fp8_rowwise", decode=_decode, encode=_encode, kept=_kept)
