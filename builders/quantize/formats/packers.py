"""Makes the tensors of a quantized matrix out of its rows, format by format.

It does not know ranks or files: rows come in order, as blocks, and what `tpforge.packing` names goes out. A
format may go through the rows twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from builders.quantize.formats import fp8, mxfp4, nvfp4, weight_only
from tpforge.dtypes import DType
from tpforge.packing import Packing

Rows = Iterable[torch.Tensor]
Packer = Callable[[Rows, tuple[int, int], DType], tuple[torch.Tensor, ...]]

PACKERS: dict[str, Packer] = {
    "int8_wo": weight_only.pack_int8,
    "int4_wo": weight_only.pack_int4,
    "fp8_rowwise": fp8.pack_rowwise,
    "fp8_block": fp8.pack_block,
    "mxfp4": mxfp4.pack_mxfp4,
    "nvfp4": nvfp4.pack_nvfp4,
}


def pack(rows: Rows, packing: Packing, *, shape: tuple[int, int], dtype: DType) -> tuple[torch.Tensor, ...]:
    """The packed weight of the matrix of `shape` [out, in], and what belongs beside it, as stored."""
    return PACKERS[packing.format](rows, shape, dtype)
