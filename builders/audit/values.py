"""Looks for NaN and infinite weights: the one part of the audit that reads every byte.

Types other than float32, float16 and bfloat16 are not looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from builders.sources.base import WeightReader
from tpforge.progress import BytesProgress

if TYPE_CHECKING:
    import torch

_CHUNK = 1 << 22
"""Elements looked at together, so that what is held beside the mapped file stays small."""


def non_finite(source: WeightReader, *, progress: BytesProgress | None = None) -> list[str]:
    """A line for each tensor that holds NaN or infinite values, with the first place of one."""
    names = [name for name in source.shapes if name in source.dtypes]
    sizes = {name: _num_bytes(source, name) for name in names}
    total, done = sum(sizes.values()), 0
    problems = []
    for name in names:
        problem = _judge(source.read(name))
        if problem is not None:
            problems.append(f"{name}: {problem}")
        done += sizes[name]
        if progress is not None:
            progress(done, total)
    return problems


def _num_bytes(source: WeightReader, name: str) -> int:
    count = source.dtypes[name].num_bytes
    for size in source.shapes[name]:
        count *= size
    return count


def _judge(tensor: torch.Tensor) -> str | None:
    import torch

    flat = tensor.reshape(-1)
    num_nan = num_infinite = 0
    first: int | None = None
    for start in range(0, flat.numel(), _CHUNK):
        chunk = flat[start : start + _CHUNK]
        # NaN is the smallest and the largest of whatever it is among; many times faster than isfinite.
        if all(torch.isfinite(extreme) for extreme in torch.aminmax(chunk)):
            continue
        finite = torch.isfinite(chunk)
        nan = int(torch.isnan(chunk).sum())
        num_nan += nan
        num_infinite += int((~finite).sum()) - nan
        if first is None:
            first = start + int(torch.nonzero(~finite)[0])
    if first is None:
        return None
    place = [int(index) for index in torch.unravel_index(torch.tensor(first), tensor.shape)]
    return f"found {num_nan} NaN and {num_infinite} infinite values, the first at {place}"
