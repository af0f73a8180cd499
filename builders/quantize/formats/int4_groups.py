"""INT4 matrices in groups along the inputs, as TensorRT-LLM takes them: signed, transposed, two in a byte.

Which formats those are is not known here.
Source: TensorRT-LLM 1.2, models/convert_utils.py and quantization/layers.py.
"""

from __future__ import annotations

import torch

from builders.sources.quantized.components import Components


def signed_groups(whole: Components, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Integers less 8, [in, out / 2], scales and (8 - zero) x scale, each [in / group, out]."""
    assert whole.zeros is not None
    codes = (whole.codes.to(torch.int8) - 8).T
    weight = (codes[:, ::2] & 0xF) | (codes[:, 1::2] << 4)
    scales = whole.scales.to(dtype)
    zeros = ((8 - whole.zeros.float()) * scales.float()).to(dtype)
    return weight, scales.T, zeros.T
