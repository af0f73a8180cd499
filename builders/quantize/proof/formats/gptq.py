"""Proof of INT4 in groups with zero points, as GPTQ's and AutoAWQ's matrices become; in plain order.

It shares no arithmetic with `builders.quantize.formats`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from builders.quantize.proof.formats.base import KeptMatrix, Proof, Tensors
from builders.quantize.proof.formats.numbers import shifted_halves, signed_halves
from builders.torch_types import TORCH_DTYPES
from tpforge.dtypes import DType


def _kept(matrix: KeptMatrix, dtype: DType) -> Tensors:
    scales = matrix.scales.to(TORCH_DTYPES[dtype])
    shifted = ((8 - matrix.zeros.double()) * scales.double()).to(TORCH_DTYPES[dtype])
    return shifted_halves(matrix.codes), scales.T, shifted.T


def _decode(stored: Sequence[torch.Tensor]) -> torch.Tensor:
    weight, scale, zeros = stored
    codes = signed_halves(weight).float()
    group = codes.shape[0] // scale.shape[0]
    scale, zeros = (one.float().repeat_interleave(group, 0) for one in (scale, zeros))
    return (codes * scale + zeros).T


GPTQ = Proof("gptq", decode=_decode, kept=_kept)
AWQ = replace(GPTQ, name="awq")
