"""A model as its config.json declares it by a row of the table: its sizes, and the tensors of each layer.

It reads no weights and plans nothing. Counted are the tensors that generate text, and the tower; not the
multi-token prediction layers, which `num_mtp_layers` counts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tpforge.architectures.expressions import Absent, NotANumber, evaluate
from tpforge.architectures.layer_kinds import layer_kinds
from tpforge.architectures.per_layer import without_per_layer
from tpforge.architectures.table import (
    Architecture,
    CacheRow,
    Cut,
    Kinds,
    TensorRow,
    Use,
    block,
    common_sizes,
    find_architecture,
    refuse_unknown,
    tower,
)
from tpforge.errors import InputRefused

_MTP_KEYS = ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_modules")


@dataclass(frozen=True)
class Tensor:
    """A tensor of the whole model: its module as a checkpoint names it, its shape, how ranks divide it.

    `heads` are the query and KV heads that the cuts by heads go by.
    """

    name: str
    shape: tuple[int, ...]
    cut: Cut
    is_linear: bool
    heads: tuple[int, int] = (1, 1)

    @property
    def num_elements(self) -> int:
        """Elements of the whole tensor."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Cache:
    """What one layer keeps of a token, or of a request, on all ranks together; see `CacheRow`."""

    values: int
    num_bytes: int
    is_per_request: bool
    every: int
    window: int | None
    read_limit: int | None
    cut: str
    kv_heads: int


@dataclass(frozen=True)
class Layer:
    """The tensors of one layer, with its number in their names, and what it keeps."""

    kind: tuple[str, str]
    tensors: tuple[Tensor, ...]
    caches: tuple[Cache, ...]

    @property
    def has_experts(self) -> bool:
        """Whether some of its tensors are routed experts."""
        return any(one.cut in ("experts", "experts in") for one in self.tensors)


class Sizes(Mapping[str, int]):
    """The sizes of a row, each worked out when it is first asked for, from config.json and other sizes."""

    def __init__(
        self, expressions: Mapping[str, str], config: Mapping[str, Any], given: Mapping[str, int]
    ) -> None:
        self._expressions, self._config = expressions, config
        self._given = given
        self._known: dict[str, int] = dict(given)

    def __getitem__(self, name: str) -> int:
        if name not in self._known:
            self._known[name] = evaluate(self._expressions[name], sizes=self, config=self._config)
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._expressions)

    def __len__(self) -> int:
        return len(self._expressions)

    def with_own(self, expressions: Mapping[str, str], given: Mapping[str, int]) -> Sizes:
        """The sizes where a block has some of its own; the others may follow from those."""
        if not expressions and not given:
            return self
        return Sizes({**self._expressions, **expressions}, self._config, {**self._given, **given})


@dataclass(frozen=True)
class Declared:
    """A model by its config.json. `config` is the object with the sizes, laid over the rest."""

    row: Architecture
    class_name: str
    config: Mapping[str, Any]
    sizes: Sizes = field(repr=False)
    attention_kinds: tuple[str, ...]
    mlp_kinds: tuple[str, ...]

    @property
    def num_layers(self) -> int:
        """Layers that generate text; those of multi-token prediction are not among them."""
        return len(self.attention_kinds)

    @property
    def num_mtp_layers(self) -> int:
        """Layers that predict further tokens, which speculation may use."""
        found = [self.config.get(key) for key in _MTP_KEYS]
        return next((one for one in found if isinstance(one, int)), 0)

    @cached_property
    def outer(self) -> tuple[Tensor, ...]:
        """The tensors outside the layers: embedding, head, norms."""
        return tuple(tensor for use in self.row.once for tensor in self._tensors(use, prefix="", extra={}))

    @cached_property
    def tower(self) -> tuple[Tensor, ...]:
        """The tensors of the encoder of images; none without one, or without its object in config.json."""
        return tuple(self._tower()) if self.has_tower else ()

    @property
    def has_tower(self) -> bool:
        """Whether config.json has the object of an encoder that the row knows."""
        return self.row.tower is not None and bool(self.config.get(tower(self.row.tower).section))

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """Every layer."""
        return tuple(self._layer(index) for index in range(self.num_layers))

    @cached_property
    def num_parameters(self) -> int:
        """Elements of all tensors, the tower's among them."""
        outer = sum(tensor.num_elements for tensor in (*self.outer, *self.tower))
        return outer + sum(tensor.num_elements for layer in self.layers for tensor in layer.tensors)

    @cached_property
    def num_active_parameters(self) -> int:
        """Elements that one token of text meets: of the experts those it is routed to, and no tower."""
        total = sum(tensor.num_elements for tensor in self.outer)
        for layer in self.layers:
            for tensor in layer.tensors:
                routed = tensor.cut in ("experts", "experts in")
                total += (
                    tensor.num_elements * self.sizes["top_k"] // tensor.shape[0]
                    if routed
                    else tensor.num_elements
                )
        return total

    @property
    def layer_counts(self) -> dict[tuple[str, str], int]:
        """How many layers there are of each kind of attention and block after it."""
        return dict(Counter(zip(self.attention_kinds, self.mlp_kinds, strict=True)))

    def _layer(self, index: int) -> Layer:
        prefix = self.row.prefix.format(layer=index)
        one = self._layer_of_each_kind[self.attention_kinds[index], self.mlp_kinds[index]]
        named = (
            Tensor(prefix + held.name, held.shape, held.cut, held.is_linear, held.heads)
            for held in one.tensors
        )
        return Layer(kind=one.kind, tensors=tuple(named), caches=one.caches)

    @cached_property
    def _layer_of_each_kind(self) -> dict[tuple[str, str], Layer]:
        """A layer of each kind, the names of its tensors from the layer on."""
        kinds = dict.fromkeys(zip(self.attention_kinds, self.mlp_kinds, strict=True))
        return {kind: self._layer_of(*kind) for kind in kinds}

    def _layer_of(self, attention: str, mlp: str) -> Layer:
        uses: list[tuple[Use, Mapping[str, int]]] = [(use, {}) for use in self.row.each]
        for table, kind in ((self.row.attention, attention), (self.row.mlp, mlp)):
            name, own = _parted(kind)
            uses += [(use, own) for use in table.kinds[name]]
        return Layer(
            kind=(attention, mlp),
            tensors=tuple(one for use, own in uses for one in self._tensors(use, prefix="", extra=own)),
            caches=tuple(self._cache(row, use, own) for use, own in uses for row in block(use.block).cache),
        )

    def _tensors(self, use: Use, *, prefix: str, extra: Mapping[str, int]) -> Iterator[Tensor]:
        sizes = self.sizes.with_own(use.sizes, extra)
        yield from self._rows(block(use.block).tensors, sizes, prefix=prefix + use.at)

    def _rows(self, rows: tuple[TensorRow, ...], sizes: Sizes, *, prefix: str) -> Iterator[Tensor]:
        for row in rows:
            shape = tuple(evaluate(one, sizes=sizes, config=self.config) for one in row.shape)
            heads = (sizes["heads"], sizes["kv_heads"]) if row.cut in ("heads", "heads in", "kv") else (1, 1)
            if all(shape):
                yield Tensor(prefix + row.name, shape, row.cut, row.is_linear, heads)

    def _cache(self, row: CacheRow, use: Use, extra: Mapping[str, int]) -> Cache:
        sizes = self.sizes.with_own(use.sizes, extra)

        def value(text: str) -> int:
            return evaluate(text, sizes=sizes, config=self.config)

        return Cache(
            values=value(row.values),
            num_bytes=value(row.num_bytes),
            is_per_request=row.per == "request",
            every=value(row.every),
            window=value(row.window) or None if row.window is not None else None,
            read_limit=value(row.reads) if row.reads is not None else None,
            cut=row.cut,
            kv_heads=sizes["kv_heads"] if row.cut == "kv" else 1,
        )

    def _tower(self) -> Iterator[Tensor]:
        assert self.row.tower is not None
        found = tower(self.row.tower)
        given = {"hidden": self.sizes["hidden"], "deepstack": self.sizes["deepstack"]}
        sizes = Sizes(found.sizes, {"outer": self.config, **self.config[found.section]}, given)
        yield from self._rows(found.once, sizes, prefix=f"{found.section}.")
        for index in range(sizes[found.depth]):
            yield from self._rows(found.layer, sizes, prefix=f"{found.section}.layers.{index}.")


def read_declared(
    config: Mapping[str, Any], *, where: str, given: Mapping[str, int] | None = None
) -> Declared:
    """The model of a config.json by the row of its class; `given` are sizes that a user states.

    Raises:
        InputRefused: the class is in no row, or a size is missing or none; the keys are named.
    """
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and len(names) == 1 else None
    if not isinstance(name, str):
        raise InputRefused(f"{where}: architectures is {names!r}, expected a list of one class name")
    row = find_architecture(name)
    if row is None:
        raise refuse_unknown(name, where=where, advice="describe them with --describe FILE")
    return declared_by(row, config, class_name=name, where=where, given=given or {})


def declared_by(
    row: Architecture, config: Mapping[str, Any], *, class_name: str, where: str, given: Mapping[str, int]
) -> Declared:
    """The model of a config.json by `row`.

    Raises:
        InputRefused: a size is missing or none; the keys are named.
    """
    inner = config.get(row.text) if row.text else None
    laid = {**config, **inner} if isinstance(inner, Mapping) else dict(config)
    if config.get("tie_word_embeddings") is not None:
        # The head is the whole model's, whatever the language model alone would do.
        laid["tie_word_embeddings"] = config["tie_word_embeddings"]
    laid = without_per_layer(laid, row.per_layer, where=where)
    sizes = Sizes({**common_sizes(), **row.sizes}, laid, given)
    try:
        num_layers = sizes["layers"]
        model = Declared(
            row=row,
            class_name=class_name,
            config=laid,
            sizes=sizes,
            attention_kinds=tuple(_kinds(row.attention, laid, num_layers)),
            mlp_kinds=tuple(_kinds(row.mlp, laid, num_layers)),
        )
        # Work out every size that is needed now, so that a missing key is named here.
        _ = (
            model.num_parameters,
            model.num_active_parameters,
            [layer.caches for layer in model.layers],
            sizes["positions"],
        )
    except Absent as error:
        raise InputRefused(
            f"{where}: found no {error.args[0]}, expected it in the config of {class_name}"
        ) from error
    except NotANumber as error:
        raise InputRefused(f"{where}: {error}") from error
    if model.num_parameters <= 0 or any(one < 0 for tensor in model.outer for one in tensor.shape):
        raise InputRefused(f"{where}: a size of {class_name} is negative or zero")
    return model


def _kinds(table: Kinds, config: Mapping[str, Any], num_layers: int) -> list[str]:
    kinds = layer_kinds(table.rule, config, num_layers=num_layers, only=next(iter(table.kinds)))
    unknown = sorted({one for one in kinds if _parted(one)[0] not in table.kinds})
    if unknown:
        known = ", ".join(table.kinds)
        raise NotANumber(f"layers of the kind {unknown[0]!r} are in no table; known are {known}")
    return kinds


def _parted(kind: str) -> tuple[str, dict[str, int]]:
    """``full:kv_heads=8`` as its name and its sizes."""
    name, _, own = kind.partition(":")
    pairs = (one.split("=") for one in own.split(",") if one)
    return name, {key: int(number) for key, number in pairs}
