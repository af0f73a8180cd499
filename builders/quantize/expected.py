"""What the stored tensors of a quantized matrix must be, by plain float64 arithmetic on the whole matrix.

Slow and simple, for the proof: it shares no arithmetic with `packers`, which conversion follows.
"""

from __future__ import annotations

import torch

from builders.torch_types import TORCH_DTYPES
from tpforge.dtypes import DType
from tpforge.packing import Packing


def encode(matrix: torch.Tensor, packing: Packing, *, dtype: DType) -> tuple[torch.Tensor, ...]:
    """The stored tensors of a float matrix [out, in], in the order of `tpforge.packing`."""
    match packing.format:
        case "int8_wo":
            codes, scale = _integers(matrix, limit=128)
            return codes.T.to(torch.int8), scale.to(TORCH_DTYPES[dtype])
        case "int4_wo":
            codes, scale = _integers(matrix, limit=8)
            halves = codes.T.to(torch.int16) % 16
            joined = halves[:, 0::2] + 16 * halves[:, 1::2]
            return joined.to(torch.uint8).view(torch.int8), scale.to(TORCH_DTYPES[dtype])
    raise AssertionError(f"no rule for {packing.format}")


def _integers(matrix: torch.Tensor, *, limit: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rounded half away from zero after a division that is rounded to float32, as the format has it."""
    exact = matrix.double()
    scale = (exact.abs().amax(1) / limit).float()
    ratio = torch.where(scale[:, None] == 0, 0.0, exact / scale.double()[:, None]).float().double()
    codes = ratio.sign() * (ratio.abs() + 0.5).floor()
    return codes.clamp(-limit, limit - 1), scale
