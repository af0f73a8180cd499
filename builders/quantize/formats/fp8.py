"""FP8 (e4m3) weights with one scale for the whole matrix, and one for its inputs, which was calibrated.

Where several matrices are joined into one (q, k and v), the largest scale is taken for all, as TensorRT-LLM
does, and the numbers of the others are rounded again.
Source: TensorRT-LLM 1.2, models/convert_utils.py and quantization/layers.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from builders.quantize.formats.base import Tensors, WeightFormat
from builders.quantize.formats.e4m3 import LARGEST
from builders.sources.quantized.components import Components
from tpforge.dtypes import DType
from tpforge.shards.packing import Packing


def _keep(parts: Sequence[Components], packing: Packing, dtype: DType) -> Tensors:
    """The numbers [out, in], and two scales [1]: of the matrix and of its inputs."""
    scale = torch.stack([part.scales.flatten() for part in parts]).amax(0)
    inputs = torch.stack([part.input_scale for part in parts if part.input_scale is not None]).amax(0)
    codes = []
    for part in parts:
        if torch.equal(part.scales.flatten(), scale):
            codes.append(part.codes)
        else:
            again = (part.values() / scale).clamp_(-LARGEST, LARGEST)
            codes.append(again.to(torch.float8_e4m3fn))
    return torch.cat(codes), scale, inputs


FP8 = WeightFormat("fp8", keep=_keep)
