"""Cuts the slice of a tensor that a rank holds into small blocks of bytes, ready to be written in order.

It follows spans and computes none. A block is a view of the source where no cast or gathering is needed,
so that memory does not grow with the model.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from builders.torch_types import TORCH_DTYPES, cast
from tpforge.dtypes import DType
from tpforge.sections import Span
from tpforge.sharding import Slice

# Small enough to stay in a core's cache between the hash and the write.
BLOCK_BYTES = 1 << 20


def slice_blocks(tensor: torch.Tensor, piece: Slice, *, dtype: DType) -> Iterator[memoryview]:
    """The bytes of `piece` of the (transformed) source `tensor` in row-major order, as `dtype`.

    Raises:
        InputRefused: a finite value does not fit `dtype`.
    """
    if piece.dim == 0:
        for span in piece.spans:
            yield from _row_blocks(tensor, span, dtype=dtype, name=piece.source)
    else:
        yield from _column_blocks(tensor, piece, dtype=dtype)


def _row_blocks(tensor: torch.Tensor, span: Span, *, dtype: DType, name: str) -> Iterator[memoryview]:
    row_bytes = max(1, tensor[:1].numel() * dtype.num_bytes)
    if span.start is None:
        yield from _zeros(span.length * row_bytes)
        return
    step = max(1, BLOCK_BYTES // row_bytes)
    stop = span.start + span.length
    for first in range(span.start, stop, step):
        yield _as_bytes(cast(tensor[first : min(first + step, stop)], dtype, name=name))


def _column_blocks(tensor: torch.Tensor, piece: Slice, *, dtype: DType) -> Iterator[memoryview]:
    step = max(1, BLOCK_BYTES // max(1, piece.length * dtype.num_bytes))
    for first in range(0, tensor.shape[0], step):
        rows = tensor[first : first + step]
        block = torch.zeros(rows.shape[0], piece.length, dtype=TORCH_DTYPES[dtype])
        column = 0
        for span in piece.spans:
            if span.start is not None:
                held = rows[:, span.start : span.start + span.length]
                block[:, column : column + span.length] = cast(held, dtype, name=piece.source)
            column += span.length
        yield _as_bytes(block)


def _zeros(num_bytes: int) -> Iterator[memoryview]:
    zeros = memoryview(bytes(min(num_bytes, BLOCK_BYTES)))
    while num_bytes > 0:
        yield zeros[:num_bytes]
        num_bytes -= BLOCK_BYTES


def _as_bytes(tensor: torch.Tensor) -> memoryview:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
