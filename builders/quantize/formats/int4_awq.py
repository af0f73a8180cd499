"""INT4 AWQ of nvidia-modelopt: groups without zero points, and a scale for each input.

The integers are the checkpoint's, in plain order or as nvidia-modelopt writes them for trtllm-build.
Source: nvidia-modelopt 0.47, export/quant_utils.py; TensorRT-LLM 1.2, quantization/layers.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from builders.quantize.formats.base import Tensors, WeightFormat
from builders.quantize.formats.int4_groups import signed_groups
from builders.sources.quantized.components import Components, joined
from builders.torch_types import TORCH_DTYPES
from tpforge.dtypes import DType
from tpforge.shards.packing import Packing


def _keep(parts: Sequence[Components], packing: Packing, dtype: DType) -> Tensors:
    """The integers [in, out / 2], scales [in / group, out], those of columns [1, in]; or ModelOpt's way."""
    whole = joined(parts)
    assert whole.column_scales is not None
    weight, scales, _ = signed_groups(whole, TORCH_DTYPES[dtype])
    columns = whole.column_scales.to(TORCH_DTYPES[dtype])
    if packing.order == "modelopt":
        return weight.T, scales.T, columns
    return weight, scales, columns[None]


INT4_AWQ = WeightFormat("int4_awq", keep=_keep)
