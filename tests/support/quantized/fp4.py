"""Writes NVFP4 checkpoints by their published layouts, for tests; it shares no code with tpforge.

Source: nvidia-modelopt 0.47 (unified export), compressed-tensors 0.20 (nvfp4-pack-quantized).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

Tensors = dict[str, torch.Tensor]
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=np.float32)
# One for all matrices, as tools do it for those that are joined; no weight of the tests is larger than 4.
LARGEST = 4.0


def write_modelopt_nvfp4(weight: NDArray[np.float32], group: int) -> tuple[Tensors, torch.Tensor]:
    """The tensors of one matrix, and the values they stand for; groups are always of 16."""
    whole = np.float32(LARGEST / (6 * 448))
    packed, scales, values = _groups(weight, whole)
    return {
        "weight": packed,
        "weight_scale": scales,
        "weight_scale_2": torch.tensor(float(whole)),
        "input_scale": torch.tensor(0.01),
    }, values


def write_compressed_nvfp4(weight: NDArray[np.float32], group: int) -> tuple[Tensors, torch.Tensor]:
    """As `write_modelopt_nvfp4`; the scale of the matrix is what values are divided by."""
    divisor = np.float32(6 * 448 / LARGEST)
    packed, scales, values = _groups(weight, np.float32(1) / divisor)
    return {
        "weight_packed": packed,
        "weight_scale": scales,
        "weight_global_scale": torch.tensor([float(divisor)]),
        "input_global_scale": torch.tensor([100.0]),
    }, values


def _groups(
    weight: NDArray[np.float32], whole: np.float32
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rows, columns = weight.shape
    grouped = weight.reshape(rows, columns // 16, 16)
    size = np.abs(grouped).max(2) / (6 * whole)
    scales = torch.from_numpy(size.astype(np.float32)).clamp(2**-9, 448).to(torch.float8_e4m3fn)
    steps = (scales.float().numpy() * whole)[..., None]
    codes = np.abs(np.abs(grouped / steps)[..., None] - E2M1).argmin(-1)
    values = (np.where(grouped < 0, -E2M1[codes], E2M1[codes]) * steps).reshape(rows, columns)
    codes = (codes + 8 * (grouped < 0)).reshape(rows, columns)
    packed = (codes[:, 0::2] + 16 * codes[:, 1::2]).astype(np.uint8)
    return torch.from_numpy(packed), scales, torch.from_numpy(values.astype(np.float32))
