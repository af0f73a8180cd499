"""Proof of weight-only INT8 and INT4: integers by row, transposed.

It shares no arithmetic with `builders.quantize.formats`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from builders.quantize.proof.formats.base import Proof, Tensors
from builders.quantize.proof.formats.numbers import halves_in_bytes, signed_halves
from builders.torch_types import TORCH_DTYPES
from tpforge.dtypes import DType


def _encode_int8(matrix: torch.Tensor, dtype: DType) -> Tensors:
    codes, scale = _integers(matrix, limit=128)
    return codes.T.to(torch.int8), scale.to(TORCH_DTYPES[dtype])


def _encode_int4(matrix: torch.Tensor, dtype: DType) -> Tensors:
    codes, scale = _integers(matrix, limit=8)
    halves = codes.T.to(torch.int16) % 16
    return halves_in_bytes(halves).view(torch.int8), scale.to(TORCH_DTYPES[dtype])


def _decode_int8(stored: Sequence[torch.Tensor]) -> torch.Tensor:
    weight, scale = stored
    return weight.T.float() * scale.float()[:, None]


def _decode_int4(stored: Sequence[torch.Tensor]) -> torch.Tensor:
    weight, scale = stored
    return signed_halves(weight).T.float() * scale.float()[:, None]


def _integers(matrix: torch.Tensor, *, limit: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rounded half away from zero after a division that is rounded to float32, as the format has it."""
    exact = matrix.double()
    scale = (exact.abs().amax(1) / limit).float()
    ratio = torch.where(scale[:, None] == 0, 0.0, exact / scale.double()[:, None]).float().double()
    codes = ratio.sign() * (ratio.abs() + 0.5).floor()
    return codes.clamp(-limit, limit - 1), scale


INT8_WO = Proof("int8_wo", decode=_decode_int8, encode=_encode_int8)
INT4_WO = Proof("int4_wo", decode=_decode_int4, encode=_encode_int4)
