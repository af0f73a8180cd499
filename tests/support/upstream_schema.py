"""A JSON schema made of the facts of upstream's own: its types, values, ranges and tags, none of its text.

It is written in the form in which upstream's file is: references into $defs, null as an alternative, and
unions told apart by a tag.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

FACTS = Path(__file__).parents[1] / "contract" / "upstream" / "llm_args_1.4.csv"
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
