"""The LLM API's arguments from a JSON schema of upstream's: types, defaults, choices, ranges, tags.

What a schema says that has no place in an argument makes it wider, never narrower: nothing that the schema
allows is refused.
Source: JSON Schema draft 2020-12, and what pydantic writes of a discriminated union.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from tpforge.errors import InputRefused
from tpforge.trtllm.arguments import Argument
from tpforge.trtllm.typed_values import ArgumentType

OWNED = (
    "model",
    "backend",
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "moe_expert_parallel_size",
)
_TYPES: dict[str, ArgumentType] = {"integer": "int", "number": "float", "boolean": "bool", "string": "str"}
_DEEPEST = 8
_ORDER: tuple[ArgumentType, ...] = (
    "bool",
    "int",
    "float",
    "ints",
    "floats",
    "items",
    "list",
    "object",
    "choice",
    "str",
    "any",
)
"""In which a value of several types is read: what any text fits comes last."""
_STATUS = ("beta", "prototype", "deprecated")
Node = Mapping[str, Any]


@dataclass
class _Found:
    """Rows by name as they are met, and the tags of unions by table."""

    rows: dict[str, Argument] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


def arguments_of(schema: Node) -> tuple[tuple[Argument, ...], dict[str, str]]:
    """The arguments by dotted names, and by table the name of its tag.

    Raises:
        InputRefused: it is no schema of an object with properties.
    """
    if not isinstance(schema.get("properties"), dict) or not schema["properties"]:
        raise InputRefused(
            "the schema of the LLM API's arguments has no properties; expected an object's schema"
        )
    found = _Found()
    _walk(schema, prefix="", defs=schema.get("$defs", {}), found=found, only=())
    return tuple(_of_every_tag(one, found) for one in found.rows.values()), found.tags


def _of_every_tag(row: Argument, found: _Found) -> Argument:
    """A row that every member of a union has belongs to no tag in particular."""
    prefix = row.name.partition(".")[0]
    tag = found.rows.get(f"{prefix}.{found.tags.get(prefix, '')}")
    is_common = tag is not None and set(row.only) == set(tag.choices)
    return row.model_copy(update={"only": ()}) if is_common else row


def _walk(node: Node, *, prefix: str, defs: Node, found: _Found, only: tuple[str, ...]) -> None:
    required = set(node.get("required", ()))
    for key, given in node["properties"].items():
        name = f"{prefix}{key}"
        alternatives = list(_alternatives(given, defs))
        inner = [one for one in alternatives if one.get("properties") or one.get("oneOf")]
        others = [one for one in alternatives if one not in inner and one.get("type") != "null"]
        nullable = any(one.get("type") == "null" for one in alternatives)
        for one in inner:
            _inner(one, name=name, defs=defs, found=found, only=only)
        if others or nullable or not inner:
            row = _row(name, given, others, nullable=nullable, is_table=bool(inner))
            row = row.model_copy(update={"only": only, "required": key in required and bool(prefix)})
            _add(row, found)


def _inner(node: Node, *, name: str, defs: Node, found: _Found, only: tuple[str, ...]) -> None:
    """A table: its own properties, or those of the members of a union told apart by a tag."""
    members = [_resolved(one, defs) for one in node.get("oneOf", ())]
    if name.count(".") > _DEEPEST:
        raise InputRefused(f"the schema of the LLM API's arguments: {name} refers to itself without end")
    if not members:
        _walk(node, prefix=f"{name}.", defs=defs, found=found, only=only)
        return
    tag = str(node.get("discriminator", {}).get("propertyName", ""))
    if tag and "." not in name:
        found.tags[name] = tag
    for member in members:
        values = _words(_resolved(member.get("properties", {}).get(tag, {}), defs))
        own = tuple(values) if tag and "." not in name else only
        rest = {key: one for key, one in member.get("properties", {}).items() if key != tag}
        if tag:
            kind = Argument(
                name=f"{name}.{tag}", type="choice", choices=tuple(values), meaning="which kind it is"
            )
            _add(kind, found, is_tag=True)
        _walk({**member, "properties": rest}, prefix=f"{name}.", defs=defs, found=found, only=own)


def _row(name: str, given: Node, others: list[Node], *, nullable: bool, is_table: bool) -> Argument:
    kinds: list[ArgumentType] = []
    choices: list[str] = []
    bounds: dict[str, Any] = {}
    for one in others:
        words = _words(one)
        kind = _type(one, words)
        kinds += [kind] if kind not in kinds else []
        choices += [word for word in words if word not in choices]
        bounds = bounds or _bounds(one if kind in ("int", "float") else one.get("items", {}))
    kinds = kinds or ["object" if is_table else "any"]
    if {"str", "any"} & set(kinds):
        # Free text beside words: the words are hints, not limits.
        kinds, choices = [one for one in kinds if one != "choice"], []
    kinds = _ordered(kinds)
    default = given.get("default")
    status = (
        given.get("status")
        if given.get("status") in _STATUS
        else "deprecated"
        if given.get("deprecated")
        else None
    )
    return Argument(
        name=name,
        type=kinds[0],
        also=tuple(kinds[1:]),
        default=default if default not in ({}, []) else None,
        choices=tuple(choices),
        nullable=nullable,
        owned=name in OWNED,
        status=cast(Literal["beta", "prototype", "deprecated"] | None, status),
        meaning=str(given.get("description") or given.get("title") or name).split("\n")[0],
        **bounds,
    )


def _ordered(kinds: list[ArgumentType]) -> list[ArgumentType]:
    return sorted(set(kinds), key=_ORDER.index)


def _type(node: Node, words: list[str]) -> ArgumentType:
    stated = node.get("type")
    if stated == "array":
        items = node.get("items", {})
        if items.get("type") == "string":
            return "list"
        return {"integer": "ints", "number": "floats"}.get(items.get("type"), "items")  # type: ignore[return-value]
    if words:
        return "choice"
    if stated == "object":
        return "object"
    return _TYPES.get(str(stated), "any")


def _words(node: Node) -> list[str]:
    """The texts that a node, or the members of its list, may be; none where it may be others too."""
    inner = node.get("items", {}) if node.get("type") == "array" else node
    listed = [inner["const"]] if "const" in inner else inner.get("enum", [])
    return [str(one) for one in listed] if all(isinstance(one, str) for one in listed) else []


def _bounds(node: Node) -> dict[str, Any]:
    names = {
        "minimum": "minimum",
        "exclusiveMinimum": "above",
        "maximum": "maximum",
        "exclusiveMaximum": "below",
    }
    return {own: node[key] for key, own in names.items() if key in node}


def _add(row: Argument, found: _Found, *, is_tag: bool = False) -> None:
    """One more row, or another member's row of the same name: what either takes is taken."""
    old = found.rows.get(row.name)
    if old is None:
        defaults = {tag: row.default for tag in row.only if row.default is not None}
        found.rows[row.name] = row if not defaults else row.model_copy(update={"defaults": defaults})
        return
    kinds = _ordered([old.type, *old.also, row.type, *row.also])
    update: dict[str, Any] = {
        "type": kinds[0],
        "also": tuple(kinds[1:]),
        "choices": tuple(dict.fromkeys([*old.choices, *row.choices])),
        "nullable": old.nullable or row.nullable,
        "only": (*old.only, *row.only) if old.only and row.only else (),
        "required": old.required and row.required,
        "defaults": old.defaults | {tag: row.default for tag in row.only if row.default is not None},
    }
    for name, widest in (("minimum", min), ("above", min), ("maximum", max), ("below", max)):
        pair = [getattr(old, name), getattr(row, name)]
        update[name] = None if None in pair else widest(pair)
    if not is_tag and old.default != row.default:
        update["default"] = None
    found.rows[row.name] = old.model_copy(update=update)


def _alternatives(given: Node, defs: Node) -> Iterator[Node]:
    """The schemas one of which a value fits, references followed."""
    node = _resolved(given, defs)
    if "anyOf" in node:
        for one in node["anyOf"]:
            yield from _alternatives(one, defs)
    elif isinstance(node.get("type"), list):
        for kind in node["type"]:
            yield {**node, "type": kind}
    elif "oneOf" in node and "discriminator" not in node:
        for one in node["oneOf"]:
            yield from _alternatives(one, defs)
    else:
        yield node


def _resolved(node: Node, defs: Node) -> Node:
    """The node that a reference means, with what stands beside the reference.

    Raises:
        InputRefused: a reference leads nowhere.
    """
    if len(node.get("allOf", ())) == 1:
        node = {**node["allOf"][0], **{key: value for key, value in node.items() if key != "allOf"}}
    reference = node.get("$ref")
    if reference is None:
        items = node.get("items")
        return (
            {**node, "items": _resolved(items, defs)} if isinstance(items, dict) and "$ref" in items else node
        )
    target = defs.get(str(reference).removeprefix("#/$defs/"))
    if not isinstance(target, dict):
        raise InputRefused(f"the schema of the LLM API's arguments: {reference} is not in its $defs")
    beside = {key: value for key, value in node.items() if key != "$ref"}
    return _resolved({**target, **beside}, defs)
