"""Decides what goes where before anything is read or written: the rank files of a source, to the byte.

It imports no tensor library, so that `tpforge inspect` answers at once.
"""

from __future__ import annotations

from functools import partial

from builders.sources.base import Source
from builders.transforms import transformed_shape
from builders.writer import RankFilePlan, plan_rank_file
from tpforge.dtypes import DType
from tpforge.errors import PlanError, UsageError
from tpforge.mapping import Mapping
from tpforge.padding import plan_padding
from tpforge.sharding import ShardPlan, rank_tensors


def plan_shards(
    source: Source, *, mapping: Mapping, pad: bool, parallel_embedding_dim: int | None
) -> ShardPlan:
    """The layout of `source` over `mapping`.

    Raises:
        UsageError: `parallel_embedding_dim` is neither 0 nor 1.
        PlanError: it cannot be sharded so.
    """
    if parallel_embedding_dim not in (None, 0, 1):
        raise UsageError(f"--parallel-embedding {parallel_embedding_dim}: expected 0 or 1")
    if mapping.moe_ep_size > 1 and source.spec.moe is None:
        raise PlanError(
            f"moe-ep={mapping.moe_ep_size}: {source.spec.architecture} has no experts; leave out --moe-ep"
        )
    plan = ShardPlan(
        model=source.spec,
        mapping=mapping,
        padding=plan_padding(
            source.spec, tp_size=mapping.tp_size, moe_ep_size=mapping.moe_ep_size, allow=pad
        ),
        parallel_embedding_dim=parallel_embedding_dim,
    )
    objections = [objection for check in source.family.restrictions if (objection := check(plan))]
    if objections:
        raise PlanError.listing(f"{source.spec.architecture} cannot be sharded so:", objections)
    return plan


def plan_rank_files(source: Source, *, plan: ShardPlan, dtype: DType) -> tuple[RankFilePlan, ...]:
    """Every rank file with its header and size; nothing is read.

    Raises:
        PlanError: the shapes contradict the plan, or a pipeline stage would be empty.
    """
    rules = source.family.rules(plan)
    reshape = partial(transformed_shape, model=source.spec)
    return tuple(
        plan_rank_file(
            f"rank{rank}.safetensors",
            rank_tensors(rules, source.shapes, plan=plan, rank=rank, reshape=reshape),
            dtype=dtype,
        )
        for rank in range(plan.mapping.world_size)
    )
