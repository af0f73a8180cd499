"""A JSON schema made of the facts of upstream's own: its types, values, ranges and tags, none of its text.

It is written in the form in which upstream's file is: references into $defs, null as an alternative, and
unions told apart by a tag.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FACTS = Path(__file__).parents[2] / "contract" / "upstream" / "llm_args_1.4.csv"
TAGS = {
    "speculative_config": "decoding_type",
    "sparse_attention_config": "algorithm",
    "kv_cache_compression_config": "algorithm",
}
_KINDS = {"int": "integer", "float": "number", "bool": "boolean", "str": "string", "choice": "string"}
Fact = dict[str, str]


def read_facts() -> list[Fact]:
    """The rows that a file can hold: no Python objects, and no properties that are no fields."""
    with FACTS.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    skipped = ("python", "not a field")
    return [
        row for row in rows if not any(word in row["status"] + row["only"] + row["type"] for word in skipped)
    ]


def schema_of_facts() -> dict[str, Any]:
    """The schema of the YAML as a whole."""
    rows = [row for row in read_facts() if ".*" not in row["path"] and "[]" not in row["path"]]
    defs: dict[str, Any] = {}
    properties = {row["path"]: _node(row, rows, defs) for row in rows if "." not in row["path"]}
    return {"$defs": defs, "properties": properties, "required": ["model"], "type": "object"}


def _node(row: Fact, rows: list[Fact], defs: dict[str, Any], *, tag: str | None = None) -> dict[str, Any]:
    path = row["path"]
    inside = [
        one for one in rows if one["path"].startswith(f"{path}.") and "." not in one["path"][len(path) + 1 :]
    ]
    if not inside:
        node = _leaf(row)
    elif path in TAGS:
        node = _union(path, inside, rows, defs)
    else:
        inside = [one for one in inside if tag is None or _belongs(one, tag)]
        node = _table(path, inside, rows, defs, tag=tag)
    optional = "?" in row["type"]
    if "str" in row["type"] and inside:
        node = {"anyOf": [node, {"type": "string"}]}
    whole = {"anyOf": [*(node.pop("anyOf", None) or [node]), {"type": "null"}]} if optional else node
    return whole | ({"status": row["status"]} if row["status"] in ("beta", "prototype", "deprecated") else {})


def _union(path: str, inside: list[Fact], rows: list[Fact], defs: dict[str, Any]) -> dict[str, Any]:
    tag = TAGS[path]
    values = next(one["values"] for one in inside if one["path"] == f"{path}.{tag}").split("|")
    members = []
    for value in values:
        own = [one for one in inside if one["path"] != f"{path}.{tag}" and _belongs(one, value)]
        _table(f"{path}#{value}", own, rows, defs, tag=value)
        members.append({"$ref": f"#/$defs/{path}#{value}"})
        defs[f"{path}#{value}"]["properties"][tag] = {"const": value, "default": value, "type": "string"}
    mapping = dict(zip(values, (one["$ref"] for one in members), strict=True))
    return {"discriminator": {"mapping": mapping, "propertyName": tag}, "oneOf": members}


def _table(
    name: str, inside: list[Fact], rows: list[Fact], defs: dict[str, Any], *, tag: str | None
) -> dict[str, Any]:
    defs[name] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {one["path"].rpartition(".")[2]: _node(one, rows, defs, tag=tag) for one in inside},
        "required": [one["path"].rpartition(".")[2] for one in inside if one["default"] == "required"],
    }
    return {"$ref": f"#/$defs/{name}"}


def _belongs(row: Fact, tag: str) -> bool:
    only = row["only"]
    if only == "all but SaveState":
        return tag != "SaveState"
    return only in ("", "all") or tag in only.split(",")


def _leaf(row: Fact) -> dict[str, Any]:
    stated = row["type"].replace("?", "")
    words = [re.sub(r" ?\(.*", "", word) for word in row["values"].split("|")]
    if stated == 'bool or "auto"':
        return {"anyOf": [{"type": "boolean"}, {"const": "auto", "type": "string"}]}
    if stated == "int or float":
        return {"anyOf": [{"type": "integer"}, {"type": "number"}]}
    if stated.startswith("float or dict"):
        return {"anyOf": [{"type": "number"}, {"type": "object"}]}
    if stated.startswith("choice"):
        return {"enum": words, "type": "string"}
    if stated.startswith("list[["):
        return {"items": {"type": "array"}, "type": "array"}
    if found := re.match(r"(?:list|set)\[(\w+)", stated):
        inner = {
            "choice": {"enum": words, "type": "string"},
            "object": {"type": "object"},
            "list": {"type": "array"},
        }
        return {"items": inner.get(found[1], {"type": _KINDS.get(found[1], "string")}), "type": "array"}
    kind = _KINDS.get(re.match(r"\w+", stated)[0], "object")  # type: ignore[index]
    return {"type": kind, **(_range(stated) if kind in ("integer", "number") else {})}


def _range(stated: str) -> dict[str, Any]:
    if found := re.search(r">= ?(-?\d+)", stated):
        return {"minimum": int(found[1])}
    if stated.endswith(">0"):
        return {"exclusiveMinimum": 0}
    if found := re.search(r"(\d+)\.\.(\d+)", stated):
        return {"minimum": int(found[1]), "maximum": int(found[2])}
    if found := re.search(r"0<x<=(\d+)", stated):
        return {"exclusiveMinimum": 0, "maximum": int(found[1])}
    return {"minimum": 0, "exclusiveMaximum": 1} if "0<=x<1" in stated else {}


def misfits(values: Any) -> list[str]:
    """What in a YAML the schema does not take: unknown keys, missing ones, types, choices, ranges."""
    schema = schema_of_facts()
    return list(_misfits(values, {**schema, "additionalProperties": False}, schema["$defs"], "the file"))


def _misfits(value: Any, node: dict[str, Any], defs: dict[str, Any], where: str) -> Iterator[str]:
    if "$ref" in node:
        yield from _misfits(value, defs[node["$ref"].removeprefix("#/$defs/")], defs, where)
    elif "anyOf" in node:
        found = [list(_misfits(value, one, defs, where)) for one in node["anyOf"]]
        yield from min(found, key=len)
    elif "oneOf" in node:
        mapping, tag = node["discriminator"]["mapping"], node["discriminator"]["propertyName"]
        if not isinstance(value, dict) or value.get(tag) not in mapping:
            yield f"{where}: no {tag} of {', '.join(mapping)}"
        else:
            yield from _misfits(value, {"$ref": mapping[value[tag]]}, defs, where)
    elif not _is_of(value, node.get("type")):
        yield f"{where}: {value!r} is no {node['type']}"
    else:
        yield from _leaf_misfits(value, node, where)
        yield from _inner_misfits(value, node, defs, where)


def _is_of(value: Any, kind: str | None) -> bool:
    kinds: dict[str, type | tuple[type, ...]] = {
        "integer": int,
        "number": (int, float),
        "boolean": bool,
        "string": str,
        "object": dict,
        "array": list,
        "null": type(None),
    }
    if kind is None:
        return True
    return isinstance(value, kinds[kind]) and (kind == "boolean" or not isinstance(value, bool))


def _leaf_misfits(value: Any, node: dict[str, Any], where: str) -> Iterator[str]:
    if value not in node.get("enum", [value]) or value != node.get("const", value):
        yield f"{where}: {value!r} is none of {node.get('enum') or node['const']}"
    if isinstance(value, int | float) and not isinstance(value, bool):
        inside = (
            value >= node.get("minimum", value)
            and value <= node.get("maximum", value)
            and value > node.get("exclusiveMinimum", value - 1)
            and value < node.get("exclusiveMaximum", value + 1)
        )
        if not inside:
            yield f"{where}: {value} is out of range"


def _inner_misfits(value: Any, node: dict[str, Any], defs: dict[str, Any], where: str) -> Iterator[str]:
    if isinstance(value, list):
        for number, one in enumerate(value):
            yield from _misfits(one, node.get("items", {}), defs, f"{where}[{number}]")
    if not isinstance(value, dict) or "properties" not in node:
        return
    for key, one in value.items():
        if key in node["properties"]:
            yield from _misfits(one, node["properties"][key], defs, f"{where}: {key}")
        elif node.get("additionalProperties") is False:
            yield f"{where}: {key} is unknown"
    yield from (f"{where}: {key} is missing" for key in node.get("required", ()) if key not in value)
