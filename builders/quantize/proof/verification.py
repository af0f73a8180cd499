"""Compares the quantized matrices of rank files with the source, and reads back the values they stand for.

What a rank must hold is worked out in `proof`; here it is done for every matrix of every stage. Integers that
are laid out for a GPU are put back in plain order first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from builders.proof.reassemble import CheckpointSizes
from builders.proof.targets import read_parts, targets
from builders.proof.unfuse import unfuse
from builders.quantize.proof import proof
from builders.quantize.proof.formats.base import Kept, KeptMatrix
from builders.quantize.proof.formats.registry import PROOFS
from builders.quantize.proof.in_order import in_plain_order
from builders.sources.base import Source
from builders.sources.safetensors_reader import SafetensorsFile
from builders.transforms import transformed
from tpforge.dtypes import DType
from tpforge.manifest import WeightError
from tpforge.shards.packing import Packing, declared_packing
from tpforge.shards.sharding import Rule, ShardPlan


@dataclass(frozen=True)
class Compared:
    """One target tensor over the ranks of its stage: what is wrong, and what the format lost."""

    problems: tuple[str, ...]
    weight_error: WeightError | None


@dataclass(frozen=True)
class _Target:
    """One quantized tensor of a stage: its rule, its place, and the rank files that hold it.

    `layer` counts in the whole model; `first` is the rank of the first file.
    """

    rule: Rule
    name: str
    layer: int
    files: list[SafetensorsFile]
    packing: Packing
    first: int


@dataclass(frozen=True)
class _Matrix:
    """One matrix (of one expert) over the ranks that share it: its parts in the source, its stored tensors.

    `wanted` is what a rank must store.
    """

    wholes: list[torch.Tensor]
    stored: list[tuple[torch.Tensor, ...]]
    ranks: list[torch.Tensor]
    wanted: list[tuple[torch.Tensor, ...]]
    expert: int


def compare_quantized(
    source: Source, ranks: list[SafetensorsFile], *, plan: ShardPlan, dtype: DType
) -> list[Compared]:
    """Every quantized matrix of a checkpoint; empty when the plan quantizes nothing."""
    return [
        _compare(source, target, plan=plan, dtype=dtype) for target in _quantized(source, ranks, plan=plan)
    ]


def dequantized_weights(
    source: Source, ranks: list[SafetensorsFile], *, plan: ShardPlan, dtype: DType
) -> Iterator[tuple[str, torch.Tensor]]:
    """The source tensors that are quantized, by name, as float32 values put together from the ranks."""
    sizes = CheckpointSizes.of(plan)
    for target in _quantized(source, ranks, plan=plan):
        rule = target.rule
        cuts = [part.cut for part in rule.parts]
        changed: dict[str, torch.Tensor] = {}
        for matrix in _matrices(source, target, plan=plan, dtype=dtype):
            decoded = [PROOFS[target.packing.format].decode(stored) for stored in matrix.stored]
            parts = proof.whole_parts(decoded, matrix.wholes, cuts, sizes=sizes)
            for part, values in zip(rule.parts, parts, strict=True):
                name = part.source.format(layer=target.layer, expert=matrix.expert)
                whole = changed.setdefault(name, source.read(name).float().clone())
                numbers = torch.arange(whole.numel()).reshape(whole.shape)
                numbers = transformed(numbers, part.transform, model=source.spec)
                places = unfuse(
                    numbers, part.section, dim=part.cut.dim, model=source.spec, expert=matrix.expert
                )
                whole.view(-1)[places.flatten()] = values.flatten()
        yield from changed.items()


def _quantized(source: Source, ranks: list[SafetensorsFile], *, plan: ShardPlan) -> Iterator[_Target]:
    """Every quantized tensor, stage by stage."""
    for stage in range(plan.mapping.pp_size):
        first = stage * plan.mapping.tp_size
        files = ranks[first : first + plan.mapping.tp_size]
        for rule, name, layer in targets(source, plan=plan, stage=stage):
            packing = declared_packing(name, plan.quantization)
            if packing is not None:
                yield _Target(rule, name, layer, files, packing, first)


def _matrices(source: Source, target: _Target, *, plan: ShardPlan, dtype: DType) -> Iterator[_Matrix]:
    """The matrix of a target, or that of each expert; neighbouring ranks hold different experts."""
    rule, layer, packing = target.rule, target.layer, target.packing
    is_portable = plan.quantization is not None and plan.quantization.form == "portable"
    names = (target.name,) if is_portable else packing.names(target.name)
    stored = [tuple(file.read(name) for name in names) for file in target.files]
    if not is_portable:
        stored = [in_plain_order(tensors, packing, dtype=dtype) for tensors in stored]
    if not rule.experts:
        experts, groups = [(0, stored)], 1
    else:
        assert source.spec.moe is not None, "a rule of experts in a model without experts"
        groups = plan.mapping.moe_ep_size
        held = source.spec.moe.num_experts // groups
        experts = [
            (expert, [tuple(one[expert % held] for one in rank) for rank in stored[expert // held :: groups]])
            for expert in range(source.spec.moe.num_experts)
        ]
    for expert, of_expert in experts:
        exact = DType.FLOAT32 if source.quantized is not None else dtype
        wholes = read_parts(source, rule, layer, dtype=exact, expert=expert)
        cuts, sizes = [part.cut for part in rule.parts], CheckpointSizes.of(plan)
        values = proof.rank_matrices(wholes, cuts, sizes=sizes, num_ranks=len(of_expert))
        if source.quantized is None:
            encode = PROOFS[packing.format].encode
            assert encode is not None, f"{packing.format} is not made of floats"
            wanted = [encode(matrix, dtype) for matrix in values]
        else:
            wanted = _kept(
                source, rule, layer, packing, sizes=sizes, num_ranks=len(values), dtype=dtype, expert=expert
            )
        yield _Matrix(wholes, wanted if is_portable else of_expert, values, wanted, expert)


def _kept(
    source: Source,
    rule: Rule,
    layer: int,
    packing: Packing,
    *,
    sizes: CheckpointSizes,
    num_ranks: int,
    dtype: DType,
    expert: int,
) -> list[tuple[torch.Tensor, ...]]:
    """What each rank must store of matrices that the source holds quantized."""
    quantized = source.quantized
    assert quantized is not None
    ranks: list[list[Kept]] = [[] for _ in range(num_ranks)]
    for part in rule.parts:
        held = quantized.components(part.source.format(layer=layer, expert=expert))
        codes = held.codes.view(torch.uint8)
        spread = [codes, held.spread(held.scales.float())]
        spread += [held.spread(held.zeros)] if held.zeros is not None else []
        if held.column_scales is not None:
            spread.append(held.column_scales.float().expand(codes.shape))
        by_rank = [
            proof.rank_matrices(
                [unfuse(one, part.section, dim=part.cut.dim, model=source.spec, expert=expert)],
                [part.cut],
                sizes=sizes,
                num_ranks=num_ranks,
            )
            for one in spread
        ]
        for rank, parts in enumerate(ranks):
            found = [one[rank] for one in by_rank]
            shape = found[0].shape
            # What a whole row, or the whole matrix, shares is not cut, and so not padded either.
            if held.row_group == 0 or (held.group == 0 and part.cut.dim == 1):
                found[1] = held.scales.float().expand(shape)
            if held.column_scales is not None and part.cut.dim == 0:
                found[-1] = held.column_scales.float().expand(shape)
            zeros = found[2] if held.zeros is not None else None
            columns = found[-1] if held.column_scales is not None else None
            parts.append(Kept(found[0], found[1], zeros, held.input_scale, columns, held.whole_scale))
    layout, kept = quantized.layout, PROOFS[packing.format].kept
    assert kept is not None, f"{packing.format} is not read from checkpoints"
    return [kept(KeptMatrix(tuple(parts), layout.group, layout.row_group), dtype) for parts in ranks]


def _compare(source: Source, target: _Target, *, plan: ShardPlan, dtype: DType) -> Compared:
    names = target.packing.names(target.name)
    if plan.quantization is not None and plan.quantization.form == "portable":
        names = (target.name,) * len(names)
    if any(name not in file.entries for file in target.files for name in names):
        return Compared((), None)
    problems: list[str] = []
    lost = proof.Loss()
    for matrix in _matrices(source, target, plan=plan, dtype=dtype):
        each = zip(matrix.stored, matrix.ranks, matrix.wanted, strict=True)
        for rank, (stored, values, wanted) in enumerate(each, start=target.first):
            found = list(proof.differences(stored, wanted, names=names))
            where = f"rank{rank}" if not target.rule.experts else f"expert {matrix.expert}"
            problems += [f"{where}: {problem}" for problem in found]
            if not found:
                lost += proof.loss(stored, values, target.packing)
    error = WeightError(
        name=_global_name(target.name, target.layer), relative=lost.relative, max_abs=lost.largest
    )
    return Compared(tuple(problems), None if problems else error)


def _global_name(target: str, layer: int) -> str:
    """The name of a target with the layer's number in the whole model."""
    prefix, layers, _, rest = target.split(".", 3)
    return f"{prefix}.{layers}.{layer}.{rest}"
