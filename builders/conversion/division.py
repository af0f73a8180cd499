"""How a checkpoint divides over ranks: the bytes of every rank file, and how many of them are padding.

It plans as a conversion does, and writes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING

from builders.conversion.layout import RankFilePlan
from builders.conversion.planning import plan_rank_files, plan_shards
from builders.families.common.base import Family
from builders.quantize.writing.cuts import refuse_cuts
from builders.transforms import transformed_shape
from tpforge.dtypes import DType
from tpforge.model import ModelSpec
from tpforge.quantization import Quantization
from tpforge.shards.mapping import Mapping
from tpforge.shards.padding import Padding
from tpforge.shards.sharding import stored_tensors

if TYPE_CHECKING:
    from builders.sources.quantized.reading import QuantizedWeights


@dataclass(frozen=True)
class TableLayout:
    """A checkpoint as its family's table says it must be, whether or not it is so."""

    location: str
    spec: ModelSpec
    family: Family

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor, by the table."""
        return self.family.expected_shapes(self.spec)


@dataclass(frozen=True)
class Division:
    """A mapping, the size of each rank file in bytes, and the zeros among them that padding adds."""

    mapping: Mapping
    padding: Padding
    rank_bytes: tuple[int, ...]
    padding_bytes: int


def divide(
    layout: TableLayout, *, mapping: Mapping, dtype: DType, stored: QuantizedWeights | None = None
) -> Division:
    """The rank files of `layout` over `mapping`, padded where it must be.

    `stored` are the quantized matrices of the checkpoint, which are kept as they are.

    Raises:
        PlanError: it cannot be divided so.
        InputRefused: no runtime loads quantized matrices of such shapes.
    """
    kept = (
        None if stored is None else Quantization(format=stored.layout.format, group_size=stored.layout.group)
    )
    plan = plan_shards(layout, mapping=mapping, pad=True, parallel_embedding_dim=None, quantization=kept)
    files = plan_rank_files(layout, plan=plan, dtype=dtype)
    if stored is not None:
        tensors = (tensor for file in files for tensor in file.tensors)
        refuse_cuts(stored, tensors, where=layout.location)
    return Division(
        mapping=mapping,
        padding=plan.padding,
        rank_bytes=tuple(file.size for file in files),
        padding_bytes=sum(_zero_bytes(file, layout, dtype=dtype) for file in files),
    )


def _zero_bytes(file: RankFilePlan, layout: TableLayout, *, dtype: DType) -> int:
    """Bytes of the spans that come of no source tensor: heads, columns and vocabulary rows of zeros.

    Of a quantized matrix they are its share of codes and scales.
    """
    shapes = layout.shapes
    total = 0
    for tensor in file.tensors:
        elements = 0
        for piece in tensor.slices:
            zeros = sum(span.length for span in piece.spans if span.start is None)
            if zeros:
                shape = transformed_shape(shapes[piece.source], piece.transform, model=layout.spec)
                elements += zeros * prod(shape) // shape[piece.dim]
        if elements:
            held = sum(one.num_bytes for one in stored_tensors(tensor, dtype=dtype))
            total += held * elements // prod(tensor.shape)
    return total
