"""Values of arguments by their type, from a file or, as text, from a command line.

It knows no argument: names, choices and ranges are `tpforge.trtllm.arguments`'s.
"""

from __future__ import annotations

import json
from typing import Any, Literal, TypeAlias

ArgumentType = Literal[
    "int",
    "float",
    "bool",
    "str",
    "choice",
    "switch",
    "flag",
    "list",
    "ints",
    "floats",
    "items",
    "object",
    "any",
]
Value: TypeAlias = Any
"""bool, int, float, str, None, or lists and dicts of them: what TOML, JSON and YAML can hold."""


def read_typed(value: Value, kind: ArgumentType) -> Value:
    """The value as its type has it; text becomes what it says.

    Raises:
        ValueError: it is of another type.
    """
    match kind:
        case "int":
            return _integer(value)
        case "float":
            return _number(value)
        case "bool" | "flag":
            return _boolean(value)
        case "switch":
            return _switch(value)
        case "list":
            return [str(one) for one in (value.split(",") if isinstance(value, str) else _sequence(value))]
        case "ints":
            return [_integer(one) for one in _parts(value)]
        case "floats":
            return [_number(one) for one in _parts(value)]
        case "items":
            return _parsed(value, list, "a list")
        case "object":
            return _parsed(value, dict, "a table")
        case "any":
            return as_json(value)
    if not isinstance(value, str):
        raise ValueError(f"found {value!r}, expected text")
    return value


def write_value(value: Value) -> str:
    """A value as a word of a command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list) and not any(isinstance(one, dict | list) for one in value):
        return " ".join(write_value(one) for one in value)
    return "null" if value is None else json.dumps(value) if isinstance(value, dict | list) else str(value)


def _integer(value: Value) -> int:
    if isinstance(value, str):
        try:
            return int(value.replace("_", ""))
        except ValueError:
            raise ValueError(f"found {value!r}, expected a whole number") from None
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"found {value!r}, expected a whole number")
    return value


def _number(value: Value) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"found {value!r}, expected a number")
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"found {value!r}, expected a number") from None


def _boolean(value: Value) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "1", "false", "0"):
        return value.lower() in ("true", "1")
    raise ValueError(f"found {value!r}, expected true or false")


def _switch(value: Value) -> str:
    if isinstance(value, bool):
        return "enable" if value else "disable"
    if value not in ("enable", "disable"):
        raise ValueError(f"found {value!r}, expected enable or disable")
    return str(value)


def _parts(value: Value) -> list[Value]:
    return value.strip("[] ").split(",") if isinstance(value, str) else _sequence(value)


def _sequence(value: Value) -> list[Value]:
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"found {value!r}, expected a list of one or more")
    return list(value)


def as_json(value: Value) -> Value:
    """What a text says as JSON; the text itself where it says nothing, and any other value as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _parsed(value: Value, kind: type, expected: str) -> Value:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError(f"found {value!r}, expected {expected} as JSON") from None
    if not isinstance(value, kind):
        raise ValueError(f"found {value!r}, expected {expected}")
    return value
