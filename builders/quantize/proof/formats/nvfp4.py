"""Proof of NVFP4: each quotient and product is that of float64, rounded to float32.

It shares no arithmetic with `builders.quantize.formats`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from builders.quantize.proof.formats.base import KeptMatrix, Proof, Tensors
from builders.quantize.proof.formats.numbers import (
    E2M1,
    e2m1_values,
    halves_in_bytes,
    nearest_e2m1,
    nearest_e4m3,
)
from tpforge.dtypes import DType


def _encode(matrix: torch.Tensor, dtype: DType) -> Tensors:
    groups = matrix.double().view(matrix.shape[0], -1, 16)
    of_matrix = (groups.abs().amax() / 2688).float().double()
    divisor = (6 * of_matrix).float().double()
    size = groups.abs().amax(-1)
    scale = torch.where(size == 0, 1.0, (size / divisor).float().double()).clamp(2.0**-9, 448)
    held = nearest_e4m3(scale, torch.ones_like(scale))
    step = (held.double() * of_matrix).float().double()[..., None]
    ratio = torch.where(step == 0, groups, groups / step).float().double()
    codes = (nearest_e2m1(ratio) + 8 * (ratio < 0)).flatten(1)
    return halves_in_bytes(codes), held, of_matrix.float()[None], torch.tensor([1.0])


def _kept(matrix: KeptMatrix, dtype: DType) -> Tensors:
    numbers = matrix.codes.view(torch.float8_e4m3fn).double()
    codes = (numbers.abs()[..., None] > E2M1).sum(-1) + 8 * torch.signbit(numbers)
    scales = matrix.scales.to(torch.float8_e4m3fn)
    return halves_in_bytes(codes), scales, matrix.whole_scale, matrix.input_scale


def _decode(stored: Sequence[torch.Tensor]) -> torch.Tensor:
    weight, scale, of_matrix, _ = stored
    return e2m1_values(weight) * (scale.float() * of_matrix).repeat_interleave(16, 1)


NVFP4 = Proof("nvfp4", decode=_decode, encode=_encode, kept=_kept)
