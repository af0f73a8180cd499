"""What a model family is: a table of rules from Hugging Face tensors to TensorRT-LLM tensors.

It knows no model. A family says how its config.json is read, which tensors a checkpoint of it holds,
what becomes of each, and what TensorRT-LLM's config.json says; nothing else differs between families.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from builders.families.common.keys import ConfigKeys
from builders.families.common.reading import ConfigReader
from tpforge.dtypes import DType
from tpforge.model import ModelSpec
from tpforge.quantization import config_field
from tpforge.shards.sharding import LayerKind, Rule, ShardPlan

Condition = Callable[[ShardPlan], bool]
Restriction = Callable[[ShardPlan], str | None]
"""Why a plan does not suit TensorRT-LLM's definition of the model, or None when it does."""


def always(plan: ShardPlan) -> bool:
    """The row holds for every model."""
    return True


@dataclass(frozen=True)
class Row:
    """A rule, and when it holds: for example only for models with biases."""

    rule: Rule
    when: Condition = always


@dataclass(frozen=True)
class SourceTensor:
    """A tensor a checkpoint holds: its name, its dims by name (see `Family.sizes`), and for which models.

    ``{layer}`` in `name` stands for the layer index, ``{expert}`` for the expert.
    """

    name: str
    dims: tuple[str, ...]
    when: Callable[[ModelSpec], bool] = lambda model: True
    layers: LayerKind = LayerKind.ALL

    def names(self, model: ModelSpec) -> Iterator[str]:
        """The tensor of every layer, and of every expert, that has it."""
        if "{layer}" not in self.name:
            yield self.name
            return
        num_experts = model.moe.num_experts if model.moe and "{expert}" in self.name else 1
        for layer in range(model.num_layers):
            if self.layers.holds(model, layer):
                yield from (self.name.format(layer=layer, expert=one) for one in range(num_experts))


@dataclass(frozen=True)
class Dropped:
    """Source tensors that are left out on purpose, by a regular expression on the whole name, and why."""

    pattern: str
    reason: str


@dataclass(frozen=True)
class ConfigField:
    """One key of TensorRT-LLM's config.json, how its value follows from the plan, and when it is there."""

    key: str
    value: Callable[[ShardPlan, DType], Any]
    when: Condition = always


@dataclass(frozen=True)
class Family:
    """One model family; variants are made by `dataclasses.replace`.

    `keys` declare what of a config.json `read_spec` reads; `read_model` holds the config to them.
    `refusal` says why no checkpoint is written for it, and what to use: TensorRT-LLM's format does not know
    the architecture. Such a family can still be inspected and planned. `optional_prefix` begins the names of
    most tensors, but not in the checkpoints that were saved without the head around the model. A plan that
    one of the `restrictions` objects to is refused.
    """

    name: str
    architectures: tuple[str, ...]
    keys: ConfigKeys
    read_spec: Callable[[ConfigReader], ModelSpec]
    sizes: Callable[[ModelSpec], dict[str, int]]
    source_tensors: tuple[SourceTensor, ...]
    rows: tuple[Row, ...]
    config_fields: tuple[ConfigField, ...]
    dropped: tuple[Dropped, ...] = ()
    refusal: str | None = None
    optional_prefix: str = ""
    restrictions: tuple[Restriction, ...] = ()

    def read_model(self, config: ConfigReader) -> ModelSpec:
        """The model that a config.json declares.

        Raises:
            InputRefused: it is not one that can be built, or says something that is not read; all is listed.
        """
        return self.read_spec(config.declaring(self.keys))

    def canonical(self, names: Iterable[str]) -> dict[str, str]:
        """The names of the tables, each with the name in the file."""
        given = list(names)
        prefix = self.optional_prefix
        if not prefix or any(name.startswith(prefix) for name in given):
            return {name: name for name in given}
        return {name if name.startswith("lm_head.") else prefix + name: name for name in given}

    def rules(self, plan: ShardPlan) -> tuple[Rule, ...]:
        """The rules that hold for this plan, in the order of the rank files."""
        return tuple(row.rule for row in self.rows if row.when(plan))

    def expected_shapes(self, model: ModelSpec) -> dict[str, tuple[int, ...]]:
        """Every tensor that a checkpoint of `model` must hold, in order, with its shape."""
        sizes = self.sizes(model)
        shapes: dict[str, tuple[int, ...]] = {}
        for tensor in self.source_tensors:
            if tensor.when(model):
                shape = tuple(sizes[dim] for dim in tensor.dims)
                shapes.update(dict.fromkeys(tensor.names(model), shape))
        return shapes

    def reason_to_drop(self, name: str) -> str | None:
        """Why the source tensor `name` is left out, or None when it is not."""
        return next((drop.reason for drop in self.dropped if re.fullmatch(drop.pattern, name)), None)

    def target_config(self, plan: ShardPlan, *, dtype: DType) -> dict[str, Any]:
        """TensorRT-LLM's config.json."""
        fields = (field for field in self.config_fields if field.when(plan))
        config = {field.key: field.value(plan, dtype) for field in fields}
        return config | config_field(plan.quantization)
