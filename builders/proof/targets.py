"""Which tensors each rank must hold, and the source tensors they are made of, for the proof of rank files.

It follows the rules of the families and counts layers itself; it knows no spans.
Source: TensorRT-LLM 1.2, mapping.py (pp_layers).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from builders.proof.unfuse import unfuse
from builders.sources.base import Source
from builders.torch_types import cast
from builders.transforms import transformed
from tpforge.dtypes import DType
from tpforge.shards.sharding import Rule, ShardPlan, Stage


def stage_layers(plan: ShardPlan, stage: int) -> range:
    """The layers of a stage, counted one by one: the first stages take one more of the remainder."""
    counts = [0] * plan.mapping.pp_size
    for layer in range(plan.model.num_layers):
        counts[layer % plan.mapping.pp_size] += 1
    first = sum(counts[:stage])
    return range(first, first + counts[stage])


def read_parts(
    source: Source, rule: Rule, layer: int, *, dtype: DType, expert: int = 0
) -> list[torch.Tensor]:
    """The source tensors of a rule's parts, each transformed, in `dtype`, and unfused."""
    wholes = []
    for part in rule.parts:
        name = part.source.format(layer=layer, expert=expert)
        whole = cast(transformed(source.read(name), part.transform, model=source.spec), dtype, name=name)
        wholes.append(unfuse(whole, part.section, dim=part.cut.dim, model=source.spec, expert=expert))
    return wholes


def targets(source: Source, *, plan: ShardPlan, stage: int) -> Iterator[tuple[Rule, str, int]]:
    """(rule, target name, global layer) of all tensors that each rank of a stage must hold."""
    for rule in source.family.rules(plan):
        if rule.stage is Stage.LAYER:
            for local, layer in enumerate(stage_layers(plan, stage)):
                if rule.layers.holds(plan.model, layer):
                    yield rule, rule.target.format(layer=local), layer
        elif stage == (0 if rule.stage is Stage.FIRST else plan.mapping.pp_size - 1):
            yield rule, rule.target, 0
