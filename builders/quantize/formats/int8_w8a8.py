"""INT8 weights with one scale for each row, of checkpoints whose runtime quantizes the activations too.

Nothing is made here: the numbers are those of the checkpoint.
Source: compressed-tensors, compressors/quantized_compressors; TensorRT-LLM 1.2, quantization/layers.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from builders.quantize.formats.base import Tensors, WeightFormat
from builders.sources.quantized.components import Components, joined
from tpforge.dtypes import DType
from tpforge.shards.packing import Packing


def _keep(parts: Sequence[Components], packing: Packing, dtype: DType) -> Tensors:
    """The integers [out, in], and the float32 scales [out]."""
    whole = joined(parts)
    return whole.codes, whole.scales.float().flatten()


INT8_W8A8 = WeightFormat("int8_w8a8", keep=_keep)
