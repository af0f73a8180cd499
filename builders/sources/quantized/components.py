"""A quantized matrix of a checkpoint in its parts, whatever its layout: codes, scales and zeros.

Cutting a matrix cuts all of them at the same rows and columns, so that shards stay quantized as they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tpforge.errors import PlanError
from tpforge.shards.sections import Span, cut_problem


@dataclass(frozen=True)
class Components:
    """value = (code - zero) x scale, the scale times `whole_scale` [1] where there is one (NVFP4).

    `codes` are [out, in]: integers, or e4m3 (of NVFP4 the numbers themselves). `scales` and `zeros` are
    [out / row_group, in / group], rounded up; a group of 0 is a whole row or column. `input_scale` is that of
    static activations. `column_scales` [in] multiply the inputs (SmoothQuant, AWQ), and so the columns.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor | None = None
    group: int = 0
    row_group: int = 1
    input_scale: torch.Tensor | None = None
    column_scales: torch.Tensor | None = None
    whole_scale: torch.Tensor | None = None

    def values(self) -> torch.Tensor:
        """The matrix in float32."""
        codes = self.codes.float()
        if self.zeros is not None:
            codes = codes - self.spread(self.zeros.float())
        scales = self.scales.float()
        if self.whole_scale is not None:
            scales = scales * self.whole_scale
        values = codes * self.spread(scales)
        return values if self.column_scales is None else values * self.column_scales.float()

    def spread(self, by_group: torch.Tensor) -> torch.Tensor:
        """Numbers of groups, repeated for each of their elements: [out, in]."""
        rows, columns = self.codes.shape
        spread = by_group.repeat_interleave(self.row_group or rows, 0)
        return spread.repeat_interleave(self.group or columns, 1)[:rows, :columns]

    def take(self, spans: Sequence[Span], *, dim: int) -> Components:
        """The spans along `dim`, one after the other; a span of zeros has codes, scales and zeros of 0.

        Raises:
            PlanError: a span begins or ends within a group.
        """
        size = self.group if dim == 1 else self.row_group
        coarse = _coarse(spans, size, length=self.codes.shape[dim])
        return Components(
            codes=_take(self.codes, spans, dim=dim),
            scales=_take(self.scales, coarse, dim=dim),
            zeros=None if self.zeros is None else _take(self.zeros, coarse, dim=dim),
            group=self.group,
            row_group=self.row_group,
            input_scale=self.input_scale,
            column_scales=self._taken_columns(spans, dim=dim),
            whole_scale=self.whole_scale,
        )

    def _taken_columns(self, spans: Sequence[Span], *, dim: int) -> torch.Tensor | None:
        if self.column_scales is None or dim == 0:
            return self.column_scales
        return _take(self.column_scales, spans, dim=0)


def joined(parts: Sequence[Components]) -> Components:
    """Matrices one below the other.

    Raises:
        PlanError: one ends within a block of rows.
    """
    first = parts[0]
    if first.row_group > 1 and any(part.codes.shape[0] % first.row_group for part in parts[:-1]):
        raise PlanError(f"matrices that are joined must end with a block of {first.row_group} rows")
    columns = [part.column_scales for part in parts if part.column_scales is not None]
    if any(not torch.equal(one, columns[0]) for one in columns[1:]):
        raise PlanError("matrices that are joined must scale their inputs alike (pre_quant_scale)")
    wholes = [part.whole_scale for part in parts if part.whole_scale is not None]
    if any(not torch.equal(one, wholes[0]) for one in wholes[1:]):
        # TensorRT-LLM would take the largest for all, and compute with other weights than were quantized.
        raise PlanError("matrices that are joined (q, k and v) must have one scale for all (weight_scale_2)")
    given = [part.input_scale for part in parts if part.input_scale is not None]
    return Components(
        codes=torch.cat([part.codes for part in parts]),
        scales=torch.cat([part.scales for part in parts]),
        zeros=None
        if first.zeros is None
        else torch.cat([part.zeros for part in parts if part.zeros is not None]),
        group=first.group,
        row_group=first.row_group,
        input_scale=torch.stack(given).amax(0) if given else None,
        column_scales=columns[0] if columns else None,
        whole_scale=wholes[0] if wholes else None,
    )


def _coarse(spans: Sequence[Span], size: int, *, length: int) -> list[Span]:
    if size == 0:
        return [Span(0, 1)]
    if problem := cut_problem(spans, size, length=length):
        raise PlanError(f"{problem}: a quantized matrix cannot be cut there")
    return [
        Span(None if span.start is None else span.start // size, -(-span.length // size)) for span in spans
    ]


def _take(tensor: torch.Tensor, spans: Sequence[Span], *, dim: int) -> torch.Tensor:
    pieces = []
    for span in spans:
        if span.start is None:
            shape = list(tensor.shape)
            shape[dim] = span.length
            pieces.append(torch.zeros(shape, dtype=tensor.dtype))
        else:
            pieces.append(tensor.narrow(dim, span.start, span.length))
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=dim)
