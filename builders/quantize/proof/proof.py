"""Proof of quantized rank files: every stored tensor is the rank's slice of the source, quantized.

Which slice a rank holds is found by undoing the cuts with numbers in place of values (`reassemble`), what it
must hold then by `expected`; neither is what conversion does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from builders.proof.reassemble import CheckpointSizes, reassemble
from builders.quantize.proof.formats.registry import PROOFS
from tpforge.shards.packing import Packing
from tpforge.shards.sharding import Cut


@dataclass(frozen=True)
class Loss:
    """Sums of squares of the differences and of the source's values, and the largest difference."""

    squared: float = 0.0
    squared_source: float = 0.0
    largest: float = 0.0

    def __add__(self, other: Loss) -> Loss:
        return Loss(
            self.squared + other.squared,
            self.squared_source + other.squared_source,
            max(self.largest, other.largest),
        )

    @property
    def relative(self) -> float:
        """Norm of the difference over norm of the source."""
        return (self.squared / self.squared_source) ** 0.5 if self.squared_source else 0.0


@dataclass(frozen=True)
class Held:
    """The rows (or columns) of a whole part that a rank holds, and where they lie on the rank."""

    source: torch.Tensor
    rank: torch.Tensor
    size: int


def held_by_ranks(cut: Cut, size: int, *, sizes: CheckpointSizes, num_ranks: int) -> list[Held]:
    """What each of the ranks that share a part holds of its dim of `size`; the rest of a rank is zeros."""
    length = sizes.rank_size(cut, size)
    shape = (1, length) if cut.dim == 1 else (length, 1)
    numbers = [torch.arange(length, dtype=torch.int32) + rank * length for rank in range(num_ranks)]
    whole = reassemble([one.reshape(shape) for one in numbers], cut, sizes=sizes).whole.flatten().long()
    # A duplicated KV head is found on the first of its ranks only.
    copies = max(1, sizes.tp_size // sizes.padded_kv_heads) if cut is Cut.KV_ROWS else 1
    result = []
    for rank in range(num_ranks):
        here = (whole // length == rank // copies * copies).nonzero().flatten()
        result.append(Held(source=here, rank=whole[here] % length, size=length))
    return result


def rank_matrices(
    wholes: Sequence[torch.Tensor], cuts: Sequence[Cut], *, sizes: CheckpointSizes, num_ranks: int
) -> list[torch.Tensor]:
    """The float matrix of each rank that the whole parts make."""
    ranks: list[list[torch.Tensor]] = [[] for _ in range(num_ranks)]
    for whole, cut in zip(wholes, cuts, strict=True):
        held = held_by_ranks(cut, whole.shape[cut.dim], sizes=sizes, num_ranks=num_ranks)
        for parts, one in zip(ranks, held, strict=True):
            shape = list(whole.shape)
            shape[cut.dim] = one.size
            part = whole.new_zeros(shape)
            part.index_copy_(cut.dim, one.rank, whole.index_select(cut.dim, one.source))
            parts.append(part)
    return [torch.cat(parts) for parts in ranks]


def whole_parts(
    matrices: Sequence[torch.Tensor],
    wholes: Sequence[torch.Tensor],
    cuts: Sequence[Cut],
    *,
    sizes: CheckpointSizes,
) -> list[torch.Tensor]:
    """The whole parts that the float matrices of the ranks stand for; `wholes` give the shapes."""
    found = [torch.empty(whole.shape) for whole in wholes]
    first = 0
    for whole, cut in zip(found, cuts, strict=True):
        held = held_by_ranks(cut, whole.shape[cut.dim], sizes=sizes, num_ranks=len(matrices))
        rows = held[0].size if cut.dim == 0 else whole.shape[0]
        for matrix, one in zip(matrices, held, strict=True):
            part = matrix[first : first + rows]
            whole.index_copy_(cut.dim, one.source, part.index_select(cut.dim, one.rank))
        first += rows
    return found


def differences(
    stored: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor], *, names: Sequence[str]
) -> Iterator[str]:
    """What is wrong with the stored tensors of one rank, which should be those `wanted`."""
    for name, found, expected in zip(names, stored, wanted, strict=True):
        if found.dtype != expected.dtype or found.shape != expected.shape:
            yield (
                f"{name}: found {found.dtype} {list(found.shape)}, "
                f"expected {expected.dtype} {list(expected.shape)}"
            )
            continue
        unequal = _bits(found) != _bits(expected)
        if bool(unequal.any()):
            place = ", ".join(str(index) for index in unequal.nonzero()[0].tolist())
            count = int(unequal.sum())
            yield f"{name}: {count} of {found.numel()} quantized values differ, the first at [{place}]"


def loss(stored: Sequence[torch.Tensor], matrix: torch.Tensor, packing: Packing) -> Loss:
    """How far the values of the stored tensors are from the rank's `matrix`."""
    source = matrix.float()
    error = PROOFS[packing.format].decode(stored) - source
    largest = float(error.abs().max()) if error.numel() else 0.0
    return Loss(float(error.double().square().sum()), float(source.double().square().sum()), largest)


_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(_INTEGERS[tensor.element_size()])
