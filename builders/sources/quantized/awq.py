"""AWQ checkpoints of the "gemm" version: int32 words of eight integers of 4 bits, packed along the outputs.

qweight [in, out / 8], qzeros [in / group, out / 8], scales [in / group, out]. Place i of a word holds output
0, 2, 4, 6, 1, 3, 5, 7 of its eight.
Source: AutoAWQ, modules/linear/gemm.py.
"""

from __future__ import annotations

import torch

from builders.sources.quantized.components import Components
from builders.sources.quantized.gptq import Read, nibbles

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def read_awq(read: Read, module: str, *, group: int) -> Components:
    """The matrix of `module`."""
    return Components(
        codes=_in_order(read(f"{module}.qweight")),
        scales=read(f"{module}.scales").T.contiguous(),
        zeros=_in_order(read(f"{module}.qzeros")),
        group=group,
    )


def _in_order(words: torch.Tensor) -> torch.Tensor:
    """The integers [out, in] of words [in, out / 8]."""
    numbers = nibbles(words, dim=1).view(words.shape[0], -1, 8)
    places = torch.tensor(ORDER).argsort()
    return numbers[:, :, places].flatten(1).T.contiguous()
