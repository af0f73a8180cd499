"""Proof of nvidia-modelopt's INT4 AWQ: groups without zero points, a scale for each input.

It shares no arithmetic with `builders.quantize.formats`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from builders.quantize.proof.formats.base import KeptMatrix, Proof, Tensors
from builders.quantize.proof.formats.numbers import shifted_halves, signed_halves
from builders.torch_types import TORCH_DTYPES
from tpforge.dtypes import DType


def _kept(matrix: KeptMatrix, dtype: DType) -> Tensors:
    own = TORCH_DTYPES[dtype]
    return shifted_halves(matrix.codes), matrix.scales.to(own).T, matrix.column_scales.to(own)[None]


def _decode(stored: Sequence[torch.Tensor]) -> torch.Tensor:
    weight, scale, columns = stored
    codes = signed_halves(weight).float()
    scales = scale.float().repeat_interleave(codes.shape[0] // scale.shape[0], 0)
    return (codes * scales).T * columns.float()


INT4_AWQ = Proof("int4_awq", decode=_decode, kept=_kept)
