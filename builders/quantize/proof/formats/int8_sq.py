"""Proof of INT8 SmoothQuant: a scale for each row, one for each input, and one for all inputs.

It shares no arithmetic with `builders.quantize.formats`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from builders.quantize.proof.formats.base import KeptMatrix, Proof, Tensors
from tpforge.dtypes import DType


def _kept(matrix: KeptMatrix, dtype: DType) -> Tensors:
    rows = matrix.scales.flatten().float()
    return matrix.codes.view(torch.int8), rows, matrix.column_scales.float(), matrix.input_scale


def _decode(stored: Sequence[torch.Tensor]) -> torch.Tensor:
    weight, scale, columns, _ = stored
    return weight.float() * scale[:, None] * columns


INT8_SQ = Proof("int8_sq", decode=_decode, kept=_kept)
