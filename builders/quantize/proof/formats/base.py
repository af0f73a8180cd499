"""What the proof knows of a quantization format: what must be stored, and which values it stands for.

It shares no arithmetic with `builders.quantize.formats`, which conversion follows: slow, simple, in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from tpforge.dtypes import DType

Tensors = tuple[torch.Tensor, ...]
"""The stored tensors of a matrix, in the order of `tpforge.shards.packing`."""


@dataclass(frozen=True)
class Kept:
    """The numbers of a quantized checkpoint that a rank holds of one part, spread to [out, in] each."""

    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor | None
    input_scale: torch.Tensor | None
    column_scales: torch.Tensor | None
    whole_scale: torch.Tensor | None


@dataclass(frozen=True)
class KeptMatrix:
    """Parts that lie one below the other; `row_group` x `group` numbers share a scale, 0 is all of a dim."""

    parts: tuple[Kept, ...]
    group: int
    row_group: int

    @property
    def codes(self) -> torch.Tensor:
        """The bytes of the numbers, [out, in]."""
        return torch.cat([part.codes for part in self.parts])

    @property
    def scales(self) -> torch.Tensor:
        """One scale for each group."""
        spread = torch.cat([part.scales for part in self.parts])
        return spread[:: self.row_group or len(spread), :: self.group or spread.shape[1]]

    @property
    def zeros(self) -> torch.Tensor:
        """One zero point for each group of a row."""
        return torch.cat([part.zeros for part in self.parts if part.zeros is not None])[:, :: self.group]

    @property
    def input_scale(self) -> torch.Tensor:
        """The largest of the parts', [1]."""
        found = [float(part.input_scale) for part in self.parts if part.input_scale is not None]
        return torch.tensor([max(found)])

    @property
    def whole_scale(self) -> torch.Tensor:
        """The one that all parts have, [1]."""
        return torch.tensor(
            [max(float(one.whole_scale) for one in self.parts if one.whole_scale is not None)]
        )

    @property
    def column_scales(self) -> torch.Tensor:
        """Those of the first part, which all have, [in]."""
        first = self.parts[0].column_scales
        assert first is not None
        return first[0]


@dataclass(frozen=True)
class Proof:
    """One format: `decode` gives the float32 values [out, in] that stored tensors stand for.

    `encode` gives the stored tensors of a float matrix, where conversion makes the format; `kept` those of
    matrices that a checkpoint holds, where it reads them.
    """

    name: str
    decode: Callable[[Sequence[torch.Tensor]], torch.Tensor]
    encode: Callable[[torch.Tensor, DType], Tensors] | None = None
    kept: Callable[[KeptMatrix, DType], Tensors] | None = None
