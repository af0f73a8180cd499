"""INT8 SmoothQuant: a scale for each row, one for each input, and one for all inputs.

The scales were calibrated by nvidia-modelopt, and are kept.
Source: nvidia-modelopt 0.47, export/quant_utils.py; TensorRT-LLM 1.2, quantization/layers.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from builders.quantize.formats.base import Tensors, WeightFormat
from builders.sources.quantized.components import Components, joined
from tpforge.dtypes import DType
from tpforge.shards.packing import Packing


def _keep(parts: Sequence[Components], packing: Packing, dtype: DType) -> Tensors:
    """The integers [out, in], and in float32 scales [out], those of columns [in], and that of inputs [1]."""
    whole = joined(parts)
    assert whole.column_scales is not None and whole.input_scale is not None
    return whole.codes, whole.scales.float().flatten(), whole.column_scales.float(), whole.input_scale


INT8_SQ = WeightFormat("int8_sq", keep=_keep)
