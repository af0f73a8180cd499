"""The integers of matrices that were laid out for TensorRT-LLM's kernels, back in plain order.

Four bits each: input k = 32 t + 8 a + 2 b + c (a, b < 4, c < 2) of an output lies at its place
32 t + 8 b + 4 c + a, plus 8; in "sm80" four outputs take turns every 64 places. engine.json says which it is.
Source: TensorRT-LLM 1.2, quantization/functional.py (preprocess_weights_for_mixed_gemm).
"""

from __future__ import annotations

import torch
from torch import Tensor

ORDERS = ("plain", "sm80", "sm90", "modelopt")


def signed_codes(weight: Tensor, order: str) -> Tensor:
    """The integers [in, out], from -8 to 7, of the 16-bit floats [in, out / 4] of order "sm80" or "sm90"."""
    inputs, outputs = weight.shape[0], weight.shape[1] * 4
    held = weight.contiguous().view(torch.uint8)
    places = torch.stack((held & 15, held >> 4), dim=-1).flatten()
    if order == "sm80":
        places = places.view(outputs // 4, inputs // 64, 4, 64).transpose(1, 2)
    places = places.reshape(outputs, inputs // 32, 4, 2, 4).permute(1, 4, 2, 3, 0)
    return places.reshape(inputs, outputs).to(torch.int8) - 8
