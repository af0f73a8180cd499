"""What the stored tensors of a quantized matrix must be, by plain float64 arithmetic on the whole matrix.

Slow and simple, for the proof: it shares no arithmetic with `packers`, which conversion follows.
"""

from __future__ import annotations

import torch

from builders.torch_types import TORCH_DTYPES
from tpforge.dtypes import DType
from tpforge.packing import BLOCK, Packing


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
        case "fp8_rowwise":
            scale = (matrix.double().abs().amax(1) / 448).float()
            return _e4m3(matrix, scale[:, None].expand(matrix.shape)), scale
        case "fp8_block":
            return _blocks(matrix)
        case "mxfp4":
            return _mxfp4(matrix)
    raise AssertionError(f"no rule for {packing.format}")


def _blocks(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    rows, columns = matrix.shape
    padded = torch.zeros(-(-rows // BLOCK) * BLOCK, -(-columns // BLOCK) * BLOCK, dtype=torch.float64)
    padded[:rows, :columns] = matrix.double()
    blocks = padded.view(padded.shape[0] // BLOCK, BLOCK, padded.shape[1] // BLOCK, BLOCK)
    scale = (blocks.abs().amax((1, 3)) / 448).float()
    spread = scale.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
    return _e4m3(matrix, spread[:rows, :columns]), scale


def _e4m3(matrix: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The nearest of all e4m3 numbers to matrix / scale, the even code of two that are as near."""
    ratio = torch.where(scale == 0, 0.0, matrix.double() / scale.double()).float()
    numbers = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).double()
    middles = (numbers[1:] + numbers[:-1]) / 2
    size = ratio.abs().double()
    below, above = torch.bucketize(size, middles), torch.bucketize(size, middles, right=True)
    codes = torch.where(below % 2 == 0, below, above)
    # 0 / 1 keeps the sign of a zero.
    return (codes + 128 * torch.signbit(matrix)).to(torch.uint8).view(torch.float8_e4m3fn)


def _mxfp4(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """By looking for the largest power of two that is not above a group's largest size."""
    groups = matrix.double().view(matrix.shape[0], -1, 32)
    largest = groups.abs().amax(-1, keepdim=True)
    powers = 2.0 ** torch.arange(-149, 128, dtype=torch.float64)
    exponent = (largest >= powers).sum(-1) - 1 - 149 - 2
    exponent = torch.where(largest[..., 0] == 0, -3, exponent).clamp(min=-127)
    ratio = groups / 2.0 ** exponent[..., None].double()
    numbers = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=torch.float64)
    distance = (ratio.abs()[..., None] - numbers).abs()
    # Of two that are as near the even code: it is a hair nearer than the odd one.
    codes = (distance + 1e-9 * (torch.arange(8) % 2)).argmin(-1)
    codes = (codes + 8 * torch.signbit(groups)).flatten(1)
    return (codes[:, 0::2] + 16 * codes[:, 1::2]).to(torch.uint8), (exponent + 127).to(torch.uint8)


def _integers(matrix: torch.Tensor, *, limit: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rounded half away from zero after a division that is rounded to float32, as the format has it."""
    exact = matrix.double()
    scale = (exact.abs().amax(1) / limit).float()
    ratio = torch.where(scale[:, None] == 0, 0.0, exact / scale.double()[:, None]).float().double()
    codes = ratio.sign() * (ratio.abs() + 0.5).floor()
    return codes.clamp(-limit, limit - 1), scale
