"""Decides what goes where before anything is read or written: the rank files of a source, to the byte.

It imports no tensor library, so that `tpforge inspect` answers at once.
"""

from __future__ import annotations

from collections.abc import Sequence

from builders.sources.base import Source
from builders.transforms import transformed_shape
from builders.writer import RankFilePlan, plan_rank_file
from tpforge.dtypes import DType
from tpforge.errors import PlanError, UsageError
from tpforge.mapping import Mapping
from tpforge.model import ModelSpec
from tpforge.padding import plan_padding
from tpforge.sharding import Rule, ShardPlan, rank_tensors


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
    return ShardPlan(
        model=source.spec,
        mapping=mapping,
        padding=plan_padding(
            source.spec, tp_size=mapping.tp_size, moe_ep_size=mapping.moe_ep_size, allow=pad
        ),
        parallel_embedding_dim=parallel_embedding_dim,
    )


def plan_rank_files(source: Source, *, plan: ShardPlan, dtype: DType) -> tuple[RankFilePlan, ...]:
    """Every rank file with its header and size; nothing is read.

    Raises:
        PlanError: the shapes contradict the plan, or a pipeline stage would be empty.
    """
    rules = source.family.rules(plan)
    shapes = _transformed_shapes(rules, source.shapes, model=source.spec)
    return tuple(
        plan_rank_file(
            f"rank{rank}.safetensors", rank_tensors(rules, shapes, plan=plan, rank=rank), dtype=dtype
        )
        for rank in range(plan.mapping.world_size)
    )


def _transformed_shapes(
    rules: Sequence[Rule], shapes: dict[str, tuple[int, ...]], *, model: ModelSpec
) -> dict[str, tuple[int, ...]]:
    result = dict(shapes)
    num_experts = model.moe.num_experts if model.moe else 1
    for part in {part for rule in rules for part in rule.parts if part.transform}:
        experts = range(num_experts if "{expert}" in part.source else 1)
        for layer in range(model.num_layers):
            for name in (part.source.format(layer=layer, expert=expert) for expert in experts):
                if name in shapes:
                    result[name] = transformed_shape(shapes[name], part.transform, model=model)
    return result
