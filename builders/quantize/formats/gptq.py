"""INT4 in groups with zero points: GPTQ, and AutoAWQ's matrices, which become the same.

The integers are the checkpoint's, in plain order or in that of the kernels of a GPU.
Source: TensorRT-LLM 1.2, models/convert_utils.py and quantization/functional.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from builders.quantize.formats.base import Tensors, WeightFormat
from builders.quantize.formats.int4_groups import signed_groups
from builders.quantize.writing.interleave import interleave
from builders.sources.quantized.components import Components, joined
from builders.torch_types import TORCH_DTYPES
from tpforge.dtypes import DType
from tpforge.shards.packing import Packing


def _keep(parts: Sequence[Components], packing: Packing, dtype: DType) -> Tensors:
    """The integers [in, out / 2], or as `dtype` [in, out / 4]; scales and zeros [in / group, out]."""
    own = TORCH_DTYPES[dtype]
    weight, scales, zeros = signed_groups(joined(parts), own)
    if packing.order != "plain":
        weight = interleave(weight, tiled=packing.order == "sm80").view(own)
    return weight, scales, zeros


GPTQ = WeightFormat("gptq", keep=_keep)
AWQ = replace(GPTQ, name="awq")
