"""Where matrices that are quantized in groups may be cut, said before anything is read.

It imports no tensor library.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from builders.audit.tensors import grouped
from tpforge.errors import PlanError
from tpforge.shards.sections import cut_problem
from tpforge.shards.sharding import RankTensor, Slice

if TYPE_CHECKING:
    from builders.sources.quantized.reading import QuantizedWeights


def refuse_cuts(quantized: QuantizedWeights, tensors: Iterable[RankTensor], *, where: str) -> None:
    """Refuse rank files that a quantized checkpoint cannot be cut into.

    Raises:
        PlanError: a matrix of TensorRT-LLM is made of plain weights, a plain one of quantized weights, a cut
            goes through a group, or a quantized matrix is not used; all are listed.
    """
    problems: set[str] = set()
    used = set()
    for tensor in tensors:
        for piece in tensor.slices:
            used.add(piece.source)
            problems.update(_problems(quantized, tensor, piece))
    problems.update(f"{name}: quantized, but not used" for name in set(quantized.shapes) - used)
    if problems:
        raise PlanError.listing(f"{where}: cannot be divided as it is quantized:", grouped(problems))


def _problems(quantized: QuantizedWeights, tensor: RankTensor, piece: Slice) -> Iterable[str]:
    is_quantized = piece.source in quantized.shapes
    if is_quantized and tensor.packing is None:
        yield f"{piece.source}: is quantized, which {tensor.name} of TensorRT-LLM is not"
    elif not is_quantized and tensor.packing is not None:
        yield f"{piece.source}: is not quantized, unlike other matrices; mixed checkpoints are not read"
    elif is_quantized and piece.transform is not None:
        yield f"{piece.source}: a quantized matrix cannot be transformed ({piece.transform})"
    elif is_quantized and (rows := _rows_amid_block(quantized, tensor, piece)):
        yield (
            f"{piece.source}: its {rows} rows end amid a block of {quantized.layout.row_group}, where the "
            f"next matrix is joined to it at any tp; give the unquantized checkpoint, with --quantize "
            f"{quantized.layout.format}, which makes the blocks of the joined matrix"
        )
    elif is_quantized:
        size = quantized.layout.group if piece.dim == 1 else quantized.layout.row_group
        length = quantized.shapes[piece.source][piece.dim]
        if problem := cut_problem(piece.spans, size, length=length):
            yield f"{piece.source}: {problem}; use a smaller tp"


def _rows_amid_block(quantized: QuantizedWeights, tensor: RankTensor, piece: Slice) -> int | None:
    """The rows of a matrix that ends within a block though another follows it (q and k before v)."""
    size = quantized.layout.row_group
    if size <= 1 or piece.dim != 0 or piece is tensor.slices[-1]:
        return None
    is_whole = sum(one.source == piece.source for one in tensor.slices) == 1
    rows = quantized.shapes[piece.source][0] if is_whole else piece.length
    return rows if rows % size else None
