"""Decides what goes where before anything is read or written: the rank files of a source, to the byte.

It imports no tensor library, so that `tpforge inspect` answers at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Protocol

from builders.conversion.layout import RankFilePlan, plan_rank_file
from builders.families.common.base import Family
from builders.transforms import transformed_shape
from tpforge.dtypes import DType
from tpforge.errors import PlanError, UsageError
from tpforge.model import ModelSpec
from tpforge.quantization import Quantization
from tpforge.quantization_gate import Linear, Question, require
from tpforge.shards.mapping import Mapping
from tpforge.shards.packing import is_quantized
from tpforge.shards.padding import plan_padding
from tpforge.shards.sharding import RankTensor, ShardPlan, rank_tensors
from tpforge.shards.weight_order import ROW_PARALLEL, order_problems


class Layout(Protocol):
    """What a plan is made from: the part of a Source that needs no open file."""

    @property
    def location(self) -> str:
        """What the user gave."""

    @property
    def spec(self) -> ModelSpec:
        """What its config declares."""

    @property
    def family(self) -> Family:
        """The family of its architecture."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor."""


def plan_shards(
    source: Layout,
    *,
    mapping: Mapping,
    pad: bool,
    parallel_embedding_dim: int | None,
    quantization: Quantization | None = None,
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
    if quantization is not None and quantization.format and source.spec.attention.latent is not None:
        raise PlanError(
            f"{source.spec.architecture}: latent attention is not quantized; leave out --quantize"
        )
    plan = ShardPlan(
        model=source.spec,
        mapping=mapping,
        padding=plan_padding(
            source.spec, tp_size=mapping.tp_size, moe_ep_size=mapping.moe_ep_size, allow=pad
        ),
        parallel_embedding_dim=parallel_embedding_dim,
        quantization=quantization,
    )
    objections = [objection for check in source.family.restrictions if (objection := check(plan))]
    if objections:
        raise PlanError.listing(f"{source.spec.architecture} cannot be sharded so:", objections)
    return plan


def plan_rank_files(source: Layout, *, plan: ShardPlan, dtype: DType) -> tuple[RankFilePlan, ...]:
    """Every rank file with its header and size; nothing is read.

    Raises:
        PlanError: the shapes contradict the plan, or a pipeline stage would be empty.
    """
    rules = source.family.rules(plan)
    reshape = partial(transformed_shape, model=source.spec)
    ranks = [
        rank_tensors(rules, source.shapes, plan=plan, rank=rank, reshape=reshape)
        for rank in range(plan.mapping.world_size)
    ]
    _refuse_shapes(plan, quantized_linears(tensor for rank in ranks for tensor in rank))
    _refuse_order(plan, [tensor for rank in ranks for tensor in rank], dtype=dtype)
    return tuple(
        plan_rank_file(f"rank{rank}.safetensors", tensors, dtype=dtype) for rank, tensors in enumerate(ranks)
    )


def quantized_linears(tensors: Iterable[RankTensor]) -> tuple[Linear, ...]:
    """The matrices of rank files that a quantized engine quantizes, each name and shape of a layer once."""
    found: dict[Linear, None] = {}
    for tensor in tensors:
        if is_quantized(tensor.name):
            name = tensor.name.removesuffix(".weight").split(".", 3)[-1]
            found[Linear(name, *tensor.shape[-2:])] = None
    return tuple(found)


def _refuse_shapes(plan: ShardPlan, linears: tuple[Linear, ...]) -> None:
    quantization = plan.quantization
    if quantization is not None and quantization.format is not None:
        group_size = quantization.group_size or None
        require(Question(quantization.format, "reference", linears=linears, group_size=group_size))


def _refuse_order(plan: ShardPlan, tensors: list[RankTensor], *, dtype: DType) -> None:
    quantization = plan.quantization
    if quantization is None or quantization.order == "plain":
        return
    biases = tuple(f".{name}.bias" for name in ROW_PARALLEL)
    problems = order_problems(
        quantized_linears(tensors),
        order=quantization.order,
        group_size=quantization.group_size,
        tp_size=plan.mapping.tp_size,
        dtype=dtype,
        has_experts=plan.model.moe is not None,
        row_biases=(one.name.split(".", 3)[-1] for one in tensors if one.name.endswith(biases)),
    )
    if listed := list(problems):
        raise PlanError.listing(
            f"{quantization.format}: cannot be laid out for the engines of TensorRT-LLM; use another tp, or "
            "--runtime reference:",
            listed,
        )
