"""A conversion before its first byte: plan, rank files to the byte, config.json, what is left out and why.

It is planned once and handed on: `convert` writes it, a dry run prints it. It reads no weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from builders.audit import audit
from builders.conversion.layout import RankFilePlan
from builders.conversion.planning import plan_rank_files, plan_shards
from builders.quantize.writing.cuts import refuse_cuts
from builders.sources.base import Source
from tpforge.dtypes import DType
from tpforge.errors import InputRefused
from tpforge.manifest import Manifest
from tpforge.quantization import Quantization
from tpforge.shards.mapping import Mapping
from tpforge.shards.sharding import ShardPlan


@dataclass(frozen=True)
class Planned:
    """What a conversion writes; `config` is the content of TensorRT-LLM's config.json."""

    plan: ShardPlan
    dtype: DType
    rank_files: tuple[RankFilePlan, ...]
    config: dict[str, Any]
    dropped: dict[str, str]
    notes: tuple[str, ...]

    @property
    def file_sizes(self) -> dict[str, int]:
        """Bytes of every rank file."""
        return {file.name: file.size for file in self.rank_files}


def plan_conversion(
    source: Source,
    *,
    mapping: Mapping,
    dtype: DType | None = None,
    pad: bool = True,
    parallel_embedding_dim: int | None = None,
    quantization: Quantization | None = None,
) -> Planned:
    """The conversion of `source` over `mapping`; `dtype` None keeps the model's.

    Raises:
        InputRefused: the checkpoint is not sound, or its quantized matrices cannot be cut so.
        UsageError: `parallel_embedding_dim` is neither 0 nor 1.
        PlanError: it cannot be sharded so.
    """
    if source.family.refusal is not None:
        raise InputRefused(f"{source.location}: {source.family.refusal}")
    dropped = audit(source)
    plan = plan_shards(
        source,
        mapping=mapping,
        pad=pad,
        parallel_embedding_dim=parallel_embedding_dim,
        quantization=quantization,
    )
    return _laid_out(source, plan, dtype=dtype or source.spec.dtype, dropped=dropped)


def with_kv_scales(planned: Planned, source: Source, *, scales: tuple[float, ...]) -> Planned:
    """The same conversion with the steps of its KV cache, which are known once they are measured."""
    assert planned.plan.quantization is not None
    quantization = planned.plan.quantization.model_copy(update={"kv_scales": scales})
    plan = replace(planned.plan, quantization=quantization)
    return _laid_out(source, plan, dtype=planned.dtype, dropped=planned.dropped)


def plan_of(manifest: Manifest) -> ShardPlan:
    """The plan by which an engine was sharded."""
    return ShardPlan(
        model=manifest.model,
        mapping=manifest.mapping,
        padding=manifest.padding,
        parallel_embedding_dim=manifest.parallel_embedding_dim,
        quantization=manifest.quantization,
    )


def _laid_out(source: Source, plan: ShardPlan, *, dtype: DType, dropped: dict[str, str]) -> Planned:
    rank_files = plan_rank_files(source, plan=plan, dtype=dtype)
    if source.quantized is not None:
        tensors = (tensor for file in rank_files for tensor in file.tensors)
        refuse_cuts(source.quantized, tensors, where=source.location)
    return Planned(
        plan=plan,
        dtype=dtype,
        rank_files=rank_files,
        config=source.family.target_config(plan, dtype=dtype),
        dropped=dropped,
        notes=(*source.notes, *plan.padding.notes),
    )
