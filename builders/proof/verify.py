"""Proof that rank files hold exactly the source: shards are put back together and compared bit for bit.

It derives where everything must lie from the written config.json and the rules of the format, and never
from the spans that `convert` followed; `reassemble` undoes the cuts.
Source: TensorRT-LLM 1.2, models/convert_utils.py (split, dup_kv_weight) and mapping.py (pp_layers).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from builders.proof.reassemble import CheckpointSizes, reassemble, split_joined
from builders.proof.targets import read_parts, stage_layers, targets
from builders.quantize.proof.verification import compare_quantized
from builders.sources.base import Source
from builders.sources.json_files import read_json_object
from builders.sources.safetensors_reader import SafetensorsFile
from tpforge.dtypes import DType
from tpforge.errors import InputRefused
from tpforge.manifest import WeightError
from tpforge.outputs.written import is_beside
from tpforge.shards.packing import kv_scale_name, packing_of
from tpforge.shards.sharding import Rule, ShardPlan


@dataclass(frozen=True)
class ShardReport:
    """How many tensors of rank files were checked, and what was wrong; nothing, when it is empty.

    `weight_errors` say of each quantized matrix what its format lost.
    """

    num_tensors: int
    problems: tuple[str, ...]
    weight_errors: tuple[WeightError, ...] = ()


def verify_shards(source: Source, checkpoint: Path, *, plan: ShardPlan, dtype: DType) -> ShardReport:
    """Compare a checkpoint folder with its source, every tensor of every rank.

    A problem of the folder is reported, not raised; one of the source is raised.
    """
    try:
        config = read_json_object(checkpoint / "config.json")
    except InputRefused as error:
        return ShardReport(num_tensors=0, problems=(str(error),))
    problems = list(_compare_config(config, source.family.target_config(plan, dtype=dtype)))
    problems += _stray_files(checkpoint, plan)
    if problems:
        return ShardReport(num_tensors=0, problems=tuple(sorted(problems)))
    with ExitStack() as stack:
        ranks = []
        for rank in range(plan.mapping.world_size):
            try:
                ranks.append(SafetensorsFile(checkpoint / f"rank{rank}.safetensors"))
            except InputRefused as error:
                return ShardReport(num_tensors=0, problems=(str(error),))
            stack.callback(ranks[-1].close)
        if broken := [f"{file.path}: {problem}" for file in ranks for problem in file.problems]:
            return ShardReport(num_tensors=0, problems=tuple(broken))
        problems = _compare_names(source, ranks, plan=plan)
        problems += list(_compare_tensors(source, ranks, plan=plan, dtype=dtype))
        problems += list(_compare_kv_scales(ranks, plan=plan))
        problems += list(_compare_kv_source(source, plan=plan))
        errors = compare_quantized(source, ranks, plan=plan, dtype=dtype)
        problems += [problem for one in errors for problem in one.problems]
        num_tensors = sum(len(rank.entries) for rank in ranks)
    return ShardReport(
        num_tensors=num_tensors,
        problems=tuple(problems),
        weight_errors=tuple(one.weight_error for one in errors if one.weight_error is not None),
    )


def _compare_config(found: dict[str, Any], expected: dict[str, Any]) -> Iterator[str]:
    for key, value in expected.items():
        if key not in found:
            yield f"config.json: {key}: missing"
        elif found[key] != value:
            yield f"config.json: {key}: found {found[key]!r}, expected {value!r}"
    yield from (f"config.json: {key}: not expected" for key in found if key not in expected)


def _stray_files(checkpoint: Path, plan: ShardPlan) -> Iterator[str]:
    expected = {"config.json", *(f"rank{rank}.safetensors" for rank in range(plan.mapping.world_size))}
    found = {path.name for path in checkpoint.iterdir() if not is_beside(path.name)}
    yield from (f"{name}: missing" for name in expected - found)
    yield from (f"{name}: does not belong to this checkpoint" for name in found - expected)


def _compare_names(source: Source, ranks: list[SafetensorsFile], *, plan: ShardPlan) -> list[str]:
    problems = []
    for rank, file in enumerate(ranks):
        stage = rank // plan.mapping.tp_size
        expected: set[str] = set()
        for _, name, _ in targets(source, plan=plan, stage=stage):
            packing = packing_of(name, plan.quantization)
            expected.update((name,) if packing is None else packing.names(name))
        expected.update(_kv_scales(plan, stage))
        found = set(file.entries)
        problems += [f"rank{rank}: {name}: missing" for name in sorted(expected - found)]
        problems += [f"rank{rank}: {name}: not expected" for name in sorted(found - expected)]
    return problems


def _kv_scales(plan: ShardPlan, stage: int) -> dict[str, float]:
    """The steps of the KV cache that the ranks of a stage must hold."""
    quantization = plan.quantization
    if quantization is None or quantization.kv_cache is None:
        return {}
    steps = quantization.kv_scales or (1.0,) * plan.model.num_layers
    layers = stage_layers(plan, stage)
    return {kv_scale_name(layer - layers.start): steps[layer] for layer in layers}


def _compare_kv_scales(ranks: list[SafetensorsFile], *, plan: ShardPlan) -> Iterator[str]:
    for rank, file in enumerate(ranks):
        for name, step in _kv_scales(plan, rank // plan.mapping.tp_size).items():
            if name in file.entries and file.read(name).tolist() != torch.tensor([step]).tolist():
                yield f"rank{rank}: {name}: found {file.read(name).tolist()}, expected [{step:g}]"


def _compare_kv_source(source: Source, *, plan: ShardPlan) -> Iterator[str]:
    """Steps that a checkpoint brought along are still its own."""
    stored, planned = source.quantized, plan.quantization
    if stored is None or stored.layout.kv_cache is None:
        return
    has = () if planned is None or planned.kv_cache is None else planned.kv_scales
    if has != stored.kv_steps(plan.model.num_layers):
        yield "the steps of the KV cache are not those of the source: build the engine again"


def _compare_tensors(
    source: Source, ranks: list[SafetensorsFile], *, plan: ShardPlan, dtype: DType
) -> Iterator[str]:
    sizes = CheckpointSizes.of(plan)
    for stage in range(plan.mapping.pp_size):
        first = stage * plan.mapping.tp_size
        stage_ranks = ranks[first : first + plan.mapping.tp_size]
        for rule, target, layer in targets(source, plan=plan, stage=stage):
            is_packed = packing_of(target, plan.quantization) is not None
            if not is_packed and all(target in file.entries for file in stage_ranks):
                where = f"rank{first}-{first + len(stage_ranks) - 1}: {target}"
                types = {file.entries[target].dtype for file in stage_ranks}
                own = rule.dtype or dtype
                if types != {own.safetensors}:
                    yield f"{where}: found type {', '.join(sorted(types))}, expected {own.safetensors}"
                    continue
                shards = [file.read(target) for file in stage_ranks]
                compare = _compare_experts if rule.experts else _compare
                for problem in compare(source, rule, layer, shards, sizes=sizes, dtype=own):
                    yield f"{where}: {problem}"


def _compare_experts(
    source: Source,
    rule: Rule,
    layer: int,
    shards: list[torch.Tensor],
    *,
    sizes: CheckpointSizes,
    dtype: DType,
) -> Iterator[str]:
    """As `_compare`, expert by expert: each lies whole or divided on the ranks of one group."""
    assert source.spec.moe is not None, "a rule of experts in a model without experts"
    num_experts, num_groups = source.spec.moe.num_experts, sizes.tp_size // sizes.moe_tp_size
    held = num_experts // num_groups
    if any(shard.dim() != 3 or shard.shape[0] != held for shard in shards):
        yield f"found shapes {[list(shard.shape) for shard in shards]}, expected {held} experts on each rank"
        return
    for expert in range(num_experts):
        # Neighbouring ranks hold different groups.
        group = shards[expert // held :: num_groups]
        parts = [shard[expert % held] for shard in group]
        yield from _compare(source, rule, layer, parts, sizes=sizes, dtype=dtype, expert=expert)


def _compare(
    source: Source,
    rule: Rule,
    layer: int,
    shards: list[torch.Tensor],
    *,
    sizes: CheckpointSizes,
    dtype: DType,
    expert: int = 0,
) -> Iterator[str]:
    """What is wrong with one target tensor over the ranks that share it."""
    names = [part.source.format(layer=layer, expert=expert) for part in rule.parts]
    wholes = read_parts(source, rule, layer, dtype=dtype, expert=expert)
    pieces = split_joined(shards, [part.cut for part in rule.parts], wholes, sizes=sizes)
    if pieces is None:
        yield f"found shapes {[list(shard.shape) for shard in shards]}, which the format does not have"
        return
    for part, name, parts, expected in zip(rule.parts, names, pieces, wholes, strict=True):
        yield from reassemble(parts, part.cut, sizes=sizes).differences(expected, name=name)
