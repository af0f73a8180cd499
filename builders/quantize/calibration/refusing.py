"""What is refused before a model is calibrated: wrong formats, shapes that do not fit. And the memory needed.

It calibrates nothing.
"""

from __future__ import annotations

from math import prod

from builders.audit import audit
from builders.planning import plan_rank_files, plan_shards
from builders.quantize.calibration import modelopt
from builders.sources.base import Source
from tpforge.errors import UsageError
from tpforge.mapping import Mapping
from tpforge.quantization import Format, Quantization
from tpforge.units import format_bytes


def refuse_format(row: Format, *, group_size: int | None) -> None:
    """Refuse a format that calibration does not make, or not here.

    Raises:
        UsageError: it is such a format, or has no groups to size.
    """
    if row.made_by != "modelopt":
        raise UsageError(
            f"--format {row.name}: {row.title} needs no calibration; use `tpforge build MODEL --quantize "
            f"{row.name}`"
            if row.made_by == "convert"
            else f"--format {row.name}: {row.title} is only read from checkpoints"
        )
    if row.name not in modelopt.CONFIGS:
        raise UsageError(
            f"--format {row.name}: {modelopt.NOT_RUN[row.name]}; use one of {', '.join(modelopt.CONFIGS)}"
        )
    if group_size is not None and not row.group_size:
        raise UsageError(f"--group-size: {row.title} has no groups; leave it out")


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
