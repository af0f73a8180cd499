"""What the stored tensors of a quantized matrix must be, by plain float64 arithmetic on the whole matrix.

Slow and simple, for the proof: it shares no arithmetic with `packers`, which conversion follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from builders.torch_types import TORCH_DTYPES
from tpforge.dtypes import DType
from tpforge.packing import BLOCK, Packing

_E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=torch.float64)


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
        case "nvfp4":
            return _nvfp4(matrix)
    raise AssertionError(f"no rule for {packing.format}")


@dataclass(frozen=True)
class Kept:
    """The numbers of a quantized checkpoint that a rank holds of one part, spread to [out, in] each."""

    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor | None
    input_scale: torch.Tensor | None
    column_scales: torch.Tensor | None
    whole_scale: torch.Tensor | None


def kept(
    parts: Sequence[Kept], packing: Packing, *, group: int, row_group: int, dtype: DType
) -> tuple[torch.Tensor, ...]:
    """The stored tensors of parts that lie one below the other, in the order of `tpforge.packing`."""
    codes, scales = torch.cat([part.codes for part in parts]), torch.cat([part.scales for part in parts])
    by_group = scales[:: row_group or len(scales), :: group or scales.shape[1]]
    match packing.format:
        case "gptq" | "awq":
            zeros = torch.cat([part.zeros for part in parts if part.zeros is not None])[:, ::group]
            halves = (codes.T.to(torch.int16) - 8) % 16
            weight = (halves[:, 0::2] + 16 * halves[:, 1::2]).to(torch.uint8).view(torch.int8)
            rounded = by_group.to(TORCH_DTYPES[dtype])
            shifted = ((8 - zeros.double()) * rounded.double()).to(TORCH_DTYPES[dtype])
            return weight, rounded.T, shifted.T
        case "int8_sq":
            first = parts[0].column_scales
            assert first is not None
            inputs = [float(part.input_scale) for part in parts if part.input_scale is not None]
            largest = torch.tensor([max(inputs)])
            return codes.view(torch.int8), by_group.flatten().float(), first[0].float(), largest
        case "int4_awq":
            first = parts[0].column_scales
            assert first is not None
            halves = (codes.T.to(torch.int16) - 8) % 16
            weight = (halves[:, 0::2] + 16 * halves[:, 1::2]).to(torch.uint8).view(torch.int8)
            own = TORCH_DTYPES[dtype]
            return weight, by_group.to(own).T, first[:1].to(own)
        case "int8_w8a8":
            return codes.view(torch.int8), by_group.flatten().float()
        case "fp8_rowwise":
            return codes.view(torch.float8_e4m3fn), by_group.flatten().float()
        case "fp8_block":
            return codes.view(torch.float8_e4m3fn), by_group.float()
        case "nvfp4":
            numbers = codes.view(torch.float8_e4m3fn).double()
            held = (numbers.abs()[..., None] > _E2M1).sum(-1) + 8 * torch.signbit(numbers)
            packed = (held[:, 0::2] + 16 * held[:, 1::2]).to(torch.uint8)
            wholes = {float(part.whole_scale) for part in parts if part.whole_scale is not None}
            inputs = [float(part.input_scale) for part in parts if part.input_scale is not None]
            scales = by_group.to(torch.float8_e4m3fn)
            return packed, scales, torch.tensor([max(wholes)]), torch.tensor([max(inputs)])
        case "fp8":
            scale = torch.tensor([max(float(part.scales.max()) for part in parts)])
            again = [_requantized(part, scale) for part in parts]
            inputs = [float(part.input_scale) for part in parts if part.input_scale is not None]
            return torch.cat(again), scale, torch.tensor([max(inputs)])
    raise AssertionError(f"no rule for {packing.format}")


def _requantized(part: Kept, scale: torch.Tensor) -> torch.Tensor:
    held = part.codes.view(torch.float8_e4m3fn)
    if float(part.scales.max()) == float(scale):
        return held
    values = (held.float() * part.scales).double()
    return _e4m3(values, scale.expand(values.shape))


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
    codes = (_nearest(ratio) + 8 * torch.signbit(groups)).flatten(1)
    return (codes[:, 0::2] + 16 * codes[:, 1::2]).to(torch.uint8), (exponent + 127).to(torch.uint8)


def _nvfp4(matrix: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Each quotient and product is that of float64, rounded to float32."""
    groups = matrix.double().view(matrix.shape[0], -1, 16)
    of_matrix = (groups.abs().amax() / 2688).float().double()
    divisor = (6 * of_matrix).float().double()
    size = groups.abs().amax(-1)
    scale = torch.where(size == 0, 1.0, (size / divisor).float().double()).clamp(2.0**-9, 448)
    held = _e4m3(scale, torch.ones_like(scale))
    step = (held.double() * of_matrix).float().double()[..., None]
    ratio = torch.where(step == 0, groups, groups / step).float().double()
    codes = (_nearest(ratio) + 8 * (ratio < 0)).flatten(1)
    packed = (codes[:, 0::2] + 16 * codes[:, 1::2]).to(torch.uint8)
    return packed, held, of_matrix.float()[None], torch.tensor([1.0])


def _nearest(ratio: torch.Tensor) -> torch.Tensor:
    """The codes of the e2m1 numbers that are nearest in size."""
    distance = (ratio.abs()[..., None] - _E2M1).abs()
    # Of two that are as near the even code: it is a hair nearer than the odd one.
    return (distance + 1e-9 * (torch.arange(8) % 2)).argmin(-1)


def _integers(matrix: torch.Tensor, *, limit: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rounded half away from zero after a division that is rounded to float32, as the format has it."""
    exact = matrix.double()
    scale = (exact.abs().amax(1) / limit).float()
    ratio = torch.where(scale[:, None] == 0, 0.0, exact / scale.double()[:, None]).float().double()
    codes = ratio.sign() * (ratio.abs() + 0.5).floor()
    return codes.clamp(-limit, limit - 1), scale
