"""Whether a JSON value fits a schema: the keywords that structured outputs use, and no guess at others.

A keyword that is not known here is an error of the schema, never a check that silently passes.
Source: JSON Schema draft 2020-12, Core and Validation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from tpforge.errors import InputRefused

_CHECKED = frozenset(
    {
        "type", "properties", "required", "additionalProperties", "items", "enum", "const", "minItems",
        "maxItems", "uniqueItems", "minLength", "maxLength", "pattern", "minimum", "maximum",
        "exclusiveMinimum", "exclusiveMaximum", "anyOf",
    }
)  # fmt: skip
_SAID_ONLY = frozenset({"title", "description", "default", "examples", "$schema", "$comment"})
_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")


def check_text(text: str, schema: Mapping[str, Any]) -> str | None:
    """What is wrong with an answer that should be a JSON value of this schema; None when nothing is.

    The whole text has to be the value: a fence or a word around it breaks whoever parses it.

    Raises:
        InputRefused: the schema has a keyword that is not known here.
    """
    require_known(schema)
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        return "is not JSON that anybody reads: it nests without end"
    except ValueError as error:
        return f"is not JSON: {error}"
    return next(_problems(value, schema, "the value"), None)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is a number of Python, not of JSON")


def require_known(schema: Any, where: str = "schema") -> None:
    """Refuse a schema with keywords or types that are not checked here, or with values that no keyword has.

    Raises:
        InputRefused: all of them are listed.
    """
    if unknown := sorted(_unknown(schema, where)):
        raise InputRefused.listing("a JSON schema has what tpforge does not check:", unknown)


def _unknown(schema: Any, where: str) -> Iterator[str]:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        yield f"{where}: is no schema"
        return
    yield from (f"{where}: {key}" for key in schema.keys() - _CHECKED - _SAID_ONLY)
    if wrong := sorted(key for key in schema.keys() & _CHECKED if not _is_value_of(key, schema[key])):
        yield from (f"{where}: {key} is {json.dumps(schema[key])}" for key in wrong)
        return
    types = schema.get("type", [])
    yield from (
        f"{where}: type {name!r}"
        for name in ([types] if isinstance(types, str) else types)
        if name not in _TYPES
    )
    for name, inner in schema.get("properties", {}).items():
        yield from _unknown(inner, f"{where}.{name}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from _unknown(schema[key], f"{where}.{key}")
    for number, inner in enumerate(schema.get("anyOf", [])):
        yield from _unknown(inner, f"{where}.anyOf[{number}]")


def _is_value_of(key: str, value: Any) -> bool:
    """Whether a keyword may have this value, as far as it would break the check of an answer."""
    match key:
        case "type":
            names = [value] if isinstance(value, str) else value
            return isinstance(names, list) and all(isinstance(name, str) for name in names)
        case "properties":
            return isinstance(value, Mapping)
        case "required":
            return isinstance(value, list) and all(isinstance(name, str) for name in value)
        case "enum" | "anyOf":
            return isinstance(value, list)
        case "minItems" | "maxItems" | "minLength" | "maxLength":
            return _is(value, "integer") and value >= 0
        case "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum":
            return _is(value, "number")
        case "uniqueItems":
            return isinstance(value, bool)
        case "pattern":
            return isinstance(value, str) and _compiles(value)
        case _:
            return True


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def _problems(value: Any, schema: Any, where: str) -> Iterator[str]:
    if isinstance(schema, bool):
        if not schema:
            yield f"{where} is not allowed"
        return
    types = schema.get("type")
    if types is not None:
        names = [types] if isinstance(types, str) else list(types)
        if not any(_is(value, name) for name in names):
            yield f"{where} is not of type {' or '.join(names)}"
            return
    if "enum" in schema and not any(_equal(value, item) for item in schema["enum"]):
        yield f"{where} is none of {json.dumps(schema['enum'])}"
    if "const" in schema and not _equal(value, schema["const"]):
        yield f"{where} is not {json.dumps(schema['const'])}"
    if "anyOf" in schema and all(any(_problems(value, one, where)) for one in schema["anyOf"]):
        yield f"{where} fits none of anyOf"
    if isinstance(value, dict):
        yield from _object_problems(value, schema, where)
    elif isinstance(value, list):
        yield from _array_problems(value, schema, where)
    elif isinstance(value, str):
        yield from _string_problems(value, schema, where)
    elif _is(value, "number"):
        yield from _number_problems(value, schema, where)


def _object_problems(value: dict[str, Any], schema: Mapping[str, Any], where: str) -> Iterator[str]:
    known = schema.get("properties", {})
    yield from (f"{where} lacks {name!r}" for name in schema.get("required", []) if name not in value)
    for name, inner in value.items():
        if name in known:
            yield from _problems(inner, known[name], f"{where}.{name}")
        elif not (others := schema.get("additionalProperties", True)):
            yield f"{where} has {name!r}, which the schema does not"
        else:
            yield from _problems(inner, others, f"{where}.{name}")


def _array_problems(value: list[Any], schema: Mapping[str, Any], where: str) -> Iterator[str]:
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        yield f"{where} has {len(value)} items"
    if schema.get("uniqueItems") and any(
        _equal(value[i], value[j]) for i in range(len(value)) for j in range(i)
    ):
        yield f"{where} has an item twice"
    if "items" in schema:
        for number, item in enumerate(value):
            yield from _problems(item, schema["items"], f"{where}[{number}]")


def _string_problems(value: str, schema: Mapping[str, Any], where: str) -> Iterator[str]:
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
        yield f"{where} has {len(value)} characters"
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{where} does not match {schema['pattern']}"


def _number_problems(value: float, schema: Mapping[str, Any], where: str) -> Iterator[str]:
    too_small = value < schema.get("minimum", value) or value <= schema.get("exclusiveMinimum", value - 1)
    too_large = value > schema.get("maximum", value) or value >= schema.get("exclusiveMaximum", value + 1)
    if too_small or too_large:
        yield f"{where} is out of range"


def _is(value: Any, name: str) -> bool:
    match name:
        case "object":
            return isinstance(value, dict)
        case "array":
            return isinstance(value, list)
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "null":
            return value is None
        case "integer":
            # An int may be larger than any float.
            return _is(value, "number") and (isinstance(value, int) or value.is_integer())
        case _:
            return isinstance(value, int | float) and not isinstance(value, bool)


def _equal(first: Any, second: Any) -> bool:
    """JSON's equality, where 1 is 1.0, but no boolean is a number."""
    if isinstance(first, bool) or isinstance(second, bool):
        return first is second
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(_equal, first, second))
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(_equal(first[key], second[key]) for key in first)
    return bool(first == second)
