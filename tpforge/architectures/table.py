"""The tables of architectures: blocks of tensors, towers, and what each architecture is made of.

It reads the tables and checks them; what a config.json says by them is `declared`'s.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from typing import Literal

from pydantic import Field, field_validator

from tpforge.architectures.per_layer import PerLayer
from tpforge.errors import InputRefused
from tpforge.records import Record

Cut = Literal["copy", "heads", "heads in", "kv", "width", "width in", "experts", "experts in", "vocab"]


class TensorRow(Record):
    """One tensor: its name below its place, its shape as expressions, how the ranks divide it.

    `is_linear`: a matrix that a quantized checkpoint may hold quantized.
    """

    name: str
    shape: tuple[str, ...]
    cut: Cut
    is_linear: bool


class CacheRow(Record):
    """What a layer keeps: for each token of a request, or once for the request.

    `values` are of the KV cache's type, `num_bytes` of their own. One entry holds `every` tokens; no more
    than `window` tokens are kept, 0 for all; attention reads at most `reads` entries. `cut`: divided over the
    ranks by KV heads, evenly, or copied.
    """

    values: str = "0"
    num_bytes: str = "0"
    per: Literal["token", "request"] = "token"
    every: str = "1"
    window: str | None = None
    reads: str | None = None
    cut: Literal["copy", "kv", "width"] = "copy"


class Block(Record):
    """Tensors that stand together in a layer or once in a model, and what they cache."""

    tensors: tuple[TensorRow, ...]
    cache: tuple[CacheRow, ...] = ()
    source: str

    @field_validator("tensors", mode="before")
    @classmethod
    def _rows(cls, rows: list[list[str]]) -> list[dict[str, object]]:
        return [_tensor_row(*row) for row in rows]


class Use(Record):
    """A block in a layer: where its tensors stand, and sizes that differ there from the model's."""

    block: str
    at: str = ""
    sizes: dict[str, str] = Field(default_factory=dict)


class Kinds(Record):
    """How the layers differ: the rule that names the kind of each, and the blocks of every kind."""

    rule: str = "same"
    kinds: dict[str, tuple[Use, ...]]


class Tower(Record):
    """An encoder of images or sound: layers of one kind, and what stands once."""

    section: str
    sizes: dict[str, str]
    depth: str
    layer: tuple[TensorRow, ...]
    once: tuple[TensorRow, ...]
    source: str

    @field_validator("layer", "once", mode="before")
    @classmethod
    def _rows(cls, rows: list[list[str]]) -> list[dict[str, object]]:
        return [_tensor_row(*row) for row in rows]


class Architecture(Record):
    """Architectures of one make: where their sizes stand, and what their layers are.

    `text` names the object of config.json that holds the language model, "" the whole of it. `prefix` begins
    the names of a layer's tensors. `once` are blocks outside the layers, `each` those of every layer.
    `per_layer` says how its config spells layers of other sizes.
    """

    name: str
    classes: tuple[str, ...]
    text: str = ""
    prefix: str = "model.layers.{layer}."
    sizes: dict[str, str] = Field(default_factory=dict)
    attention: Kinds
    mlp: Kinds
    each: tuple[Use, ...] = (Use(block="two_norms"),)
    once: tuple[Use, ...] = (Use(block="outer"),)
    tower: str | None = None
    tied: bool = False
    per_layer: PerLayer | None = None
    source: str


class _Tables(Record):
    sizes: dict[str, str]
    blocks: dict[str, Block]
    towers: dict[str, Tower]
    architectures: tuple[Architecture, ...]


def common_sizes() -> dict[str, str]:
    """The sizes that most configs spell alike, in the order in which they are read."""
    return _tables().sizes


def block(name: str) -> Block:
    """The block of that name."""
    return _tables().blocks[name]


def tower(name: str) -> Tower:
    """The tower of that name."""
    return _tables().towers[name]


def architectures() -> tuple[Architecture, ...]:
    """All of them, in the order of the table."""
    return _tables().architectures


def find_architecture(class_name: str) -> Architecture | None:
    """The row of a class, as config.json names it in `architectures`; None: there is none."""
    return _by_class().get(class_name)


def known_classes() -> tuple[str, ...]:
    """Every class of the table, sorted."""
    return tuple(sorted(_by_class()))


def _tensor_row(name: str, shape: str, cut: str) -> dict[str, object]:
    """``["q_proj.weight", "heads*head x hidden", "heads"]``; ", float" at the end: never quantized."""
    divided, _, kept = cut.partition(", ")
    dims = tuple(part.strip() for part in shape.split(" x "))
    assert kept in ("", "float"), f"{name}: a cut may end in ', float' only, found {cut!r}"
    return {"name": name, "shape": dims, "cut": divided, "is_linear": len(dims) > 1 and not kept}


@cache
def _by_class() -> dict[str, Architecture]:
    found: dict[str, Architecture] = {}
    for row in architectures():
        for name in row.classes:
            assert name not in found, f"{name} is in two rows"
            found[name] = row
    return found


@cache
def _tables() -> _Tables:
    blocks = _toml("blocks.toml")
    rows = _toml("architectures.toml")
    tables = _Tables.model_validate(
        {
            "sizes": rows["sizes"],
            "blocks": blocks,
            "towers": _toml("towers.toml"),
            "architectures": rows["architecture"],
        }
    )
    for row in tables.architectures:
        uses = [use for kinds in (row.attention, row.mlp) for held in kinds.kinds.values() for use in held]
        for use in (*uses, *row.each, *row.once):
            assert use.block in tables.blocks, f"{row.name}: no block {use.block}"
        assert row.tower is None or row.tower in tables.towers, f"{row.name}: no tower {row.tower}"
    return tables


def _toml(name: str) -> dict[str, object]:
    text = files("tpforge.architectures").joinpath(name).read_text(encoding="utf-8")
    return tomllib.loads(text)


def refuse_unknown(class_name: str, *, where: str, advice: str) -> InputRefused:
    """The error for a class that is in no row, with those that are spelled most like it."""
    near = nearest_classes(class_name)
    hint = f"; nearest are {' and '.join(near)}" if near else ""
    return InputRefused(f"{where}: the sizes of {class_name} are in no table of tpforge{hint}; {advice}")


def nearest_classes(class_name: str) -> list[str]:
    """Classes of the table that are spelled most like another; none when none is like it."""
    from difflib import get_close_matches

    return get_close_matches(class_name, known_classes(), n=2, cutoff=0.7)
