"""The torch type of each DType, and casts that refuse to lose finite values.

It is apart from `tpforge.dtypes`, because the core does not import torch.
"""

from __future__ import annotations

import torch

from tpforge.dtypes import DType
from tpforge.errors import InputRefused

TORCH_DTYPES = {
    DType.FLOAT32: torch.float32,
    DType.FLOAT16: torch.float16,
    DType.BFLOAT16: torch.bfloat16,
}


def cast(tensor: torch.Tensor, dtype: DType, *, name: str) -> torch.Tensor:
    """`tensor` as `dtype`, rounded to nearest even; the tensor itself when the type is unchanged.

    Raises:
        InputRefused: a finite value of tensor `name` would become infinite.
    """
    target = TORCH_DTYPES[dtype]
    if tensor.dtype == target:
        return tensor
    result = tensor.to(target)
    if dtype is DType.FLOAT16 and bool((torch.isinf(result) & torch.isfinite(tensor)).any()):
        largest = tensor[torch.isfinite(tensor)].abs().max().item()
        raise InputRefused(
            f"{name}: the value {largest:g} does not fit float16 (largest 65504); use --dtype bfloat16"
        )
    return result
