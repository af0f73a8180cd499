"""GPTQ checkpoints: int32 words of eight integers of 4 bits, packed along the inputs.

qweight [in / 8, out], qzeros [in / group, out / 8] packed along the outputs, scales [in / group, out], the
first of a word's numbers in its lowest bits. The zero points of the first version are stored less one.
Source: AutoGPTQ, nn_modules/qlinear; GPTQModel, "gptq" and "gptq_v2" checkpoint formats.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from builders.sources.quantized.components import Components

Read = Callable[[str], torch.Tensor]


def read_gptq(read: Read, module: str, *, group: int, zero_offset: int) -> Components:
    """The matrix of `module`; `zero_offset` is what the stored zero points lack."""
    codes = nibbles(read(f"{module}.qweight"), dim=0).T.contiguous()
    zeros = nibbles(read(f"{module}.qzeros"), dim=1).T + zero_offset
    return Components(
        codes=codes, scales=read(f"{module}.scales").T.contiguous(), zeros=zeros.contiguous(), group=group
    )


def nibbles(words: torch.Tensor, *, dim: int) -> torch.Tensor:
    """The eight integers (0 to 15) of each int32 word, lowest bits first, one after the other along `dim`."""
    numbers = torch.stack([(words >> (4 * place)) & 15 for place in range(8)], dim=dim + 1)
    return numbers.flatten(dim, dim + 1).to(torch.uint8)
