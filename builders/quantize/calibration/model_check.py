"""What is looked at before a model is calibrated: whether its shapes fit the format, and the memory needed.

It calibrates nothing.
"""

from __future__ import annotations

from math import prod

from builders.audit import audit
from builders.conversion.planning import plan_rank_files, plan_shards
from builders.sources.base import Source
from tpforge.quantization import Quantization
from tpforge.shards.mapping import Mapping
from tpforge.units import format_bytes


def refuse_shapes(source: Source, *, format_name: str, group_size: int) -> None:
    """Refuse a format that the matrices of the model cannot have on one rank.

    Raises:
        InputRefused: a matrix does not take it, or the model is refused.
    """
    audit(source)
    plan = plan_shards(
        source,
        mapping=Mapping(),
        pad=True,
        parallel_embedding_dim=None,
        quantization=Quantization(format=format_name, form="portable", group_size=group_size),
    )
    plan_rank_files(source, plan=plan, dtype=source.spec.dtype)


def memory_needed(source: Source) -> str:
    """What modelopt will need, said beforehand: the weights, their quantized copy and activations."""
    weights = sum(prod(shape) for shape in source.shapes.values()) * source.spec.dtype.num_bytes
    return f"nvidia-modelopt will need about {format_bytes(3 * weights + (1 << 30))} of memory"
