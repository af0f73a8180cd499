"""Cuts the slice of a tensor that a rank holds into small blocks of bytes, ready to be written in order.

It follows spans and computes none. A block is a view of the source where no cast or gathering is needed,
so that memory does not grow with the model.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from builders.torch_types import TORCH_DTYPES, cast
from tpforge.dtypes import DType
from tpforge.shards.sections import Span
from tpforge.shards.sharding import Slice

# Small enough to stay in a core's cache between the hash and the write.
BLOCK_BYTES = 1 << 20


def slice_blocks(tensor: torch.Tensor, piece: Slice, *, dtype: DType) -> Iterator[memoryview]:
    """The bytes of `piece` of the (transformed) source `tensor` in row-major order, as `dtype`.

    Raises:
        InputRefused: a finite value does not fit `dtype`.
    """
    return (as_bytes(block) for block in slice_rows(tensor, piece, dtype=dtype))


def slice_rows(tensor: torch.Tensor, piece: Slice, *, dtype: DType) -> Iterator[torch.Tensor]:
    """As `slice_blocks`, as tensors of whole rows."""
    if piece.dim == 0:
        for span in piece.spans:
            yield from _row_blocks(tensor, span, dtype=dtype, name=piece.source)
    elif piece.spans == (Span(0, tensor.shape[1]),):
        yield from _row_blocks(tensor, Span(0, tensor.shape[0]), dtype=dtype, name=piece.source)
    else:
        yield from _column_blocks(tensor, piece, dtype=dtype)


def as_bytes(tensor: torch.Tensor) -> memoryview:
    """The content of a tensor, row by row."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def _row_blocks(tensor: torch.Tensor, span: Span, *, dtype: DType, name: str) -> Iterator[torch.Tensor]:
    rest = tensor.shape[1:]
    step = max(1, BLOCK_BYTES // max(1, tensor[:1].numel() * dtype.num_bytes))
    if span.start is None:
        zeros = torch.zeros(min(step, span.length), *rest, dtype=TORCH_DTYPES[dtype])
        yield from (zeros[: span.length - first] for first in range(0, span.length, step))
        return
    stop = span.start + span.length
    for first in range(span.start, stop, step):
        yield cast(tensor[first : min(first + step, stop)], dtype, name=name)


def _column_blocks(tensor: torch.Tensor, piece: Slice, *, dtype: DType) -> Iterator[torch.Tensor]:
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
        yield block
