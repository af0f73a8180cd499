"""What the host needs to make the engine: disk for model, rank files and engine, memory to quantize.

It looks at no host. The engine's size is that of its weights, which it mostly is.
"""

from __future__ import annotations

from dataclasses import dataclass

from tpforge.dtypes import DType
from tpforge.quantization import find_format
from tpforge.shards.mapping import Mapping
from tpforge.shards.weights import Blueprint, rank_shapes, weight_bytes


@dataclass(frozen=True)
class HostNeeds:
    """Bytes on disk, and of memory: None where tensors are streamed one by one, as `tpforge convert` does."""

    source_bytes: int
    rank_files_bytes: int
    engine_bytes: int
    memory_bytes: int | None


def host_needs(
    blueprint: Blueprint, *, mapping: Mapping, dtype: DType, weight_format: str | None
) -> HostNeeds:
    """The needs of one engine; ModelOpt holds the whole model in memory while it calibrates."""
    shapes = rank_shapes(blueprint, mapping=mapping)
    ranks = sum(
        mapping.tp_size * weight_bytes(shapes, stage=stage, dtype=dtype, weight_format=weight_format)
        for stage in range(mapping.pp_size)
    )
    if blueprint.stored_format is not None:
        # Already quantized: read as it is, and about as large as what is written.
        return HostNeeds(ranks, ranks, ranks, None)
    source = blueprint.num_parameters * blueprint.model.dtype.num_bytes
    by_modelopt = weight_format is not None and find_format(weight_format).made_by == "modelopt"
    return HostNeeds(source, ranks, ranks, source if by_modelopt else None)
