"""Undoes the cuts of the format: from the shards of all ranks back to the whole tensor and its padding.

It works on whole tensors by head and row counts alone, and shares no arithmetic with
`tpforge.shards.sharding`, so that the two can prove each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch

from tpforge.shards.sharding import Cut, ShardPlan

_BITS = {2: torch.int16, 4: torch.int32}
_COLUMN_CUTS = (
    Cut.QUERY_COLUMNS,
    Cut.MLP_COLUMNS,
    Cut.EXPERT_COLUMNS,
    Cut.SHARED_COLUMNS,
    Cut.HIDDEN_COLUMNS,
)


@dataclass(frozen=True)
class CheckpointSizes:
    """The counts of a checkpoint: those of its config.json (padded), and those of the source."""

    tp_size: int
    moe_tp_size: int
    num_heads: int
    num_kv_heads: int
    padded_heads: int
    padded_kv_heads: int
    intermediate_size: int
    padded_intermediate_size: int
    expert_size: int
    padded_expert_size: int
    shared_size: int
    padded_shared_size: int
    vocab_size: int
    hidden_size: int

    @classmethod
    def of(cls, plan: ShardPlan) -> Self:
        """The counts of a plan."""
        moe = plan.model.moe
        return cls(
            tp_size=plan.mapping.tp_size,
            moe_tp_size=plan.mapping.tp_size // plan.mapping.moe_ep_size,
            num_heads=plan.model.attention.num_heads,
            num_kv_heads=plan.model.attention.num_kv_heads,
            padded_heads=plan.padding.heads.num_heads,
            padded_kv_heads=plan.padding.heads.num_kv_heads,
            intermediate_size=plan.model.mlp.intermediate_size,
            padded_intermediate_size=plan.padding.intermediate_size,
            expert_size=moe.intermediate_size if moe else 0,
            padded_expert_size=plan.padding.expert_size,
            shared_size=moe.shared_intermediate_size if moe else 0,
            padded_shared_size=plan.padding.shared_size,
            vocab_size=plan.model.vocab_size,
            hidden_size=plan.model.hidden_size,
        )

    def rank_size(self, cut: Cut, whole: int) -> int:
        """Rows (or columns) on a rank of a source dim of size `whole`."""
        query_heads = self.padded_heads // self.tp_size
        kv_heads = max(1, self.padded_kv_heads // self.tp_size)
        expert = self.padded_expert_size // self.moe_tp_size
        return {
            Cut.COPY: whole,
            Cut.QUERY_ROWS: query_heads * (whole // self.num_heads),
            Cut.QUERY_COLUMNS: query_heads * (whole // self.num_heads),
            Cut.KV_ROWS: kv_heads * (whole // self.num_kv_heads),
            Cut.MLP_ROWS: self.padded_intermediate_size // self.tp_size,
            Cut.MLP_COLUMNS: self.padded_intermediate_size // self.tp_size,
            Cut.EXPERT_ROWS: expert,
            Cut.EXPERT_COLUMNS: expert,
            Cut.SHARED_ROWS: self.padded_shared_size // self.tp_size,
            Cut.SHARED_COLUMNS: self.padded_shared_size // self.tp_size,
            Cut.VOCAB_ROWS: (self.vocab_size + self.tp_size - 1) // self.tp_size,
            Cut.HIDDEN_COLUMNS: self.hidden_size // self.tp_size,
        }[cut]

    def width(self, cut: Cut) -> int:
        """Rows (or columns) of the whole source that a cut of widths or of the vocabulary keeps."""
        return {
            Cut.MLP_ROWS: self.intermediate_size,
            Cut.MLP_COLUMNS: self.intermediate_size,
            Cut.EXPERT_ROWS: self.expert_size,
            Cut.EXPERT_COLUMNS: self.expert_size,
            Cut.SHARED_ROWS: self.shared_size,
            Cut.SHARED_COLUMNS: self.shared_size,
            Cut.VOCAB_ROWS: self.vocab_size,
            Cut.HIDDEN_COLUMNS: self.hidden_size,
        }[cut]


@dataclass(frozen=True)
class Reassembled:
    """A whole tensor, what lay beside it as padding, and copies that should equal one another."""

    whole: torch.Tensor
    padding: tuple[torch.Tensor, ...] = ()
    unequal_copies: tuple[str, ...] = ()

    def differences(self, expected: torch.Tensor, *, name: str) -> Iterator[str]:
        """What is wrong, compared with the source tensor `name` in the engine's type."""
        yield from self.unequal_copies
        if self.whole.shape != expected.shape:
            yield f"{name}: found {list(self.whole.shape)}, expected {list(expected.shape)}"
        elif not torch.equal(_bits(self.whole), _bits(expected)):
            unequal = (_bits(self.whole) != _bits(expected)).nonzero()
            place = ", ".join(str(index) for index in unequal[0].tolist())
            yield f"{name}: {len(unequal)} of {expected.numel()} values differ, the first at [{place}]"
        num_stray = sum(int(_bits(piece).count_nonzero()) for piece in self.padding)
        if num_stray:
            yield f"{name}: {num_stray} values of the padding are not zero"


def split_joined(
    shards: list[torch.Tensor], cuts: list[Cut], wholes: list[torch.Tensor], *, sizes: CheckpointSizes
) -> list[list[torch.Tensor]] | None:
    """Each rank's tensor cut into its parts along dim 0; None when the shapes do not fit.

    `wholes` are the source tensors of the parts. Gives one list per part, with one tensor per rank.
    """
    expected = [_rank_shape(cut, whole, sizes=sizes) for cut, whole in zip(cuts, wholes, strict=True)]
    rows = [shape[0] for shape in expected]
    joined = (sum(rows), *expected[0][1:])
    if any(tuple(shard.shape) != joined for shard in shards):
        return None
    parts = [torch.split(shard, rows) for shard in shards]
    return [[part[index] for part in parts] for index in range(len(cuts))]


def _rank_shape(cut: Cut, whole: torch.Tensor, *, sizes: CheckpointSizes) -> tuple[int, ...]:
    shape = list(whole.shape)
    dim = 1 if cut in _COLUMN_CUTS else 0
    shape[dim] = sizes.rank_size(cut, shape[dim])
    return tuple(shape)


def reassemble(parts: list[torch.Tensor], cut: Cut, *, sizes: CheckpointSizes) -> Reassembled:
    """The whole source tensor out of one part on every rank that shares it."""
    if cut is Cut.COPY:
        return Reassembled(parts[0], unequal_copies=_unequal(parts, what="the copy on rank"))
    if cut is Cut.QUERY_ROWS:
        return _ungroup_rows(torch.cat(parts), sizes)
    if cut is Cut.QUERY_COLUMNS:
        turned = _ungroup_rows(torch.cat(parts, dim=1).T, sizes)
        return Reassembled(turned.whole.T, turned.padding)
    if cut is Cut.KV_ROWS:
        return _join_kv(parts, sizes)
    kept = sizes.width(cut)
    if cut in _COLUMN_CUTS:
        joined = torch.cat(parts, dim=1)
        return Reassembled(joined[:, :kept], (joined[:, kept:],))
    joined = torch.cat(parts)
    return Reassembled(joined[:kept], (joined[kept:],))


def _ungroup_rows(joined: torch.Tensor, sizes: CheckpointSizes) -> Reassembled:
    """Query heads lie in groups, one group a KV head; padding ends each group, then adds whole groups."""
    padded_group = sizes.padded_heads // sizes.padded_kv_heads
    group = sizes.num_heads // sizes.num_kv_heads
    heads = joined.reshape(sizes.padded_kv_heads, padded_group, -1, *joined.shape[1:])
    whole = heads[: sizes.num_kv_heads, :group].flatten(0, 2)
    return Reassembled(whole, (heads[: sizes.num_kv_heads, group:], heads[sizes.num_kv_heads :]))


def _join_kv(parts: list[torch.Tensor], sizes: CheckpointSizes) -> Reassembled:
    """KV heads in order; when there are more ranks than heads, neighbouring ranks hold the same one."""
    copies = max(1, sizes.tp_size // sizes.padded_kv_heads)
    unequal: list[str] = []
    for first in range(0, len(parts), copies):
        same = parts[first : first + copies]
        unequal += _unequal(same, what="the duplicated KV head on rank", first_rank=first)
    joined = torch.cat(parts[::copies])
    kept = joined.shape[0] // sizes.padded_kv_heads * sizes.num_kv_heads
    return Reassembled(joined[:kept], (joined[kept:],), tuple(unequal))


def _unequal(parts: list[torch.Tensor], *, what: str, first_rank: int = 0) -> tuple[str, ...]:
    return tuple(
        f"{what} {first_rank + index} differs from rank {first_rank}'s"
        for index, part in enumerate(parts)
        if not torch.equal(_bits(part), _bits(parts[0]))
    )


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """The bits as integers, so that -0 differs from 0 and NaN equals itself."""
    return tensor.contiguous().view(_BITS[tensor.element_size()])
