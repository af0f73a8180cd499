"""All formats that rank files hold, by the names of quantization.toml.

It knows nothing of any of them; a format is one file beside this one.
"""

from __future__ import annotations

from builders.quantize.formats.base import WeightFormat
from builders.quantize.formats.fp8 import FP8
from builders.quantize.formats.fp8_block import FP8_BLOCK
from builders.quantize.formats.fp8_rowwise import FP8_ROWWISE
from builders.quantize.formats.gptq import AWQ, GPTQ
from builders.quantize.formats.int4_awq import INT4_AWQ
from builders.quantize.formats.int8_sq import INT8_SQ
from builders.quantize.formats.int8_w8a8 import INT8_W8A8
from builders.quantize.formats.mxfp4 import MXFP4
from builders.quantize.formats.nvfp4 import NVFP4
from builders.quantize.formats.weight_only import INT4_WO, INT8_WO

FORMATS: dict[str, WeightFormat] = {
    one.name: one
    for one in (
        INT8_WO,
        INT4_WO,
        INT4_AWQ,
        GPTQ,
        AWQ,
        INT8_SQ,
        INT8_W8A8,
        FP8,
        FP8_ROWWISE,
        FP8_BLOCK,
        NVFP4,
        MXFP4,
    )
}
