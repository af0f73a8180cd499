"""Proof of FP8 with one scale for each block of 128 x 128.

It shares no arithmetic with `builders.quantize.formats`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from builders.quantize.proof.formats.base import KeptMatrix, Proof, Tensors
from builders.quantize.proof.formats.numbers import nearest_e4m3
from tpforge.dtypes import DType

_BLOCK = 128


def _encode(matrix: torch.Tensor, dtype: DType) -> Tensors:
    rows, columns = matrix.shape
    padded = torch.zeros(-(-rows // _BLOCK) * _BLOCK, -(-columns // _BLOCK) * _BLOCK, dtype=torch.float64)
    padded[:rows, :columns] = matrix.double()
    blocks = padded.view(padded.shape[0] // _BLOCK, _BLOCK, padded.shape[1] // _BLOCK, _BLOCK)
    scale = (blocks.abs().amax((1, 3)) / 448).float()
    return nearest_e4m3(matrix, _spread(scale)[:rows, :columns]), scale


def _kept(matrix: KeptMatrix, dtype: DType) -> Tensors:
    return matrix.codes.view(torch.float8_e4m3fn), matrix.scales.float()


def _decode(stored: Sequence[torch.Tensor]) -> torch.Tensor:
    weight, scale = stored
    return weight.float() * _spread(scale)[: weight.shape[0], : weight.shape[1]]


def _spread(scale: torch.Tensor) -> torch.Tensor:
    return scale.repeat_interleave(_BLOCK, 0).repeat_interleave(_BLOCK, 1)


FP8_BLOCK = Proof("fp8_block", decode=_decode, encode=_encode, kept=_kept)
