"""The proofs of all formats that rank files hold, by the names of quantization.toml.

It knows nothing of any of them; the proof of a format is one file beside this one.
"""

from __future__ import annotations

from builders.quantize.proof.formats.base import Proof
from builders.quantize.proof.formats.fp8 import FP8
from builders.quantize.proof.formats.fp8_block import FP8_BLOCK
from builders.quantize.proof.formats.fp8_rowwise import FP8_ROWWISE
from builders.quantize.proof.formats.gptq import AWQ, GPTQ
from builders.quantize.proof.formats.int4_awq import INT4_AWQ
from builders.quantize.proof.formats.int8_sq import INT8_SQ
from builders.quantize.proof.formats.int8_w8a8 import INT8_W8A8
from builders.quantize.proof.formats.mxfp4 import MXFP4
from builders.quantize.proof.formats.nvfp4 import NVFP4
from builders.quantize.proof.formats.weight_only import INT4_WO, INT8_WO

PROOFS: dict[str, Proof] = {
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
