"""How a checkpoint divides over ranks: the bytes of every rank file, and how many of them are padding.

It plans as a conversion does, and writes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

from builders.families.base import Family
from builders.planning import plan_rank_files, plan_shards
from builders.transforms import transformed_shape
from builders.writer import RankFilePlan
from tpforge.dtypes import DType
from tpforge.mapping import Mapping
from tpforge.model import ModelSpec
from tpforge.padding import Padding


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


def divide(layout: TableLayout, *, mapping: Mapping, dtype: DType) -> Division:
    """The rank files of `layout` over `mapping`, padded where it must be.

    Raises:
        PlanError: it cannot be divided so.
    """
    plan = plan_shards(layout, mapping=mapping, pad=True, parallel_embedding_dim=None)
    files = plan_rank_files(layout, plan=plan, dtype=dtype)
    return Division(
        mapping=mapping,
        padding=plan.padding,
        rank_bytes=tuple(file.size for file in files),
        padding_bytes=sum(_zero_bytes(file, layout, dtype=dtype) for file in files),
    )


def _zero_bytes(file: RankFilePlan, layout: TableLayout, *, dtype: DType) -> int:
    """Bytes of the spans that come of no source tensor: heads, columns and vocabulary rows of zeros."""
    shapes = layout.shapes
    total = 0
    for tensor in file.tensors:
        num_bytes = (tensor.dtype or dtype).num_bytes
        for piece in tensor.slices:
            zeros = sum(span.length for span in piece.spans if span.start is None)
            if zeros:
                shape = transformed_shape(shapes[piece.source], piece.transform, model=layout.spec)
                total += zeros * prod(shape) // shape[piece.dim] * num_bytes
    return total
