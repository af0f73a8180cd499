"""What a quantization format is to conversion: how the matrix of a rank is made of what the source holds.

Which tensors those are is in `tpforge.shards.packing`, how a checkpoint lays it out in `builders.sources`. A
format knows no ranks and no files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from builders.sources.quantized.components import Components
from tpforge.dtypes import DType
from tpforge.shards.packing import STORED, Packing, StoredFormat

Rows = Iterable[torch.Tensor]
"""The rows of a matrix in order, as blocks; they can be gone through again."""
Tensors = tuple[torch.Tensor, ...]
"""The tensors of a matrix as stored, the packed weight first, in the order of `tpforge.shards.packing`."""


@dataclass(frozen=True)
class WeightFormat:
    """One format of weights; `name` is its row of quantization.toml.

    `pack` quantizes float rows of a matrix of a shape [out, in], with scales of a type. `keep` lays out
    matrices that are quantized already, one below the other: their numbers stay, their order changes.
    """

    name: str
    pack: Callable[[Rows, tuple[int, int], DType], Tensors] | None = None
    keep: Callable[[Sequence[Components], Packing, DType], Tensors] | None = None

    @property
    def stored(self) -> StoredFormat:
        """What it stores, and where it may be cut."""
        return STORED[self.name]
