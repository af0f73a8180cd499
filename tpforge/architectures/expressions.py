"""Whole-number expressions of the tables: ``config.num_key_value_heads | heads``, ``2 * kv_heads * head``.

It knows no architecture. ``config.KEY`` is a value of config.json, a bare name a size that is known already;
``|`` takes its right side where the left one names a key that config.json does not have.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

_OPERATORS: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


class Absent(LookupError):
    """A key that config.json does not have, or has as null."""


class NotANumber(ValueError):
    """A key of config.json whose value is no whole number; the message says which and what it is."""


def evaluate(text: str, *, sizes: Mapping[str, int], config: Mapping[str, Any]) -> int:
    """The value of an expression.

    Raises:
        Absent: every alternative names a key that config.json does not have.
        NotANumber: a key holds something else than a whole number.
    """
    return _value(_parsed(text), sizes, config)


@cache
def _parsed(text: str) -> ast.expr:
    return ast.parse(text.strip(), mode="eval").body


def _value(node: ast.expr, sizes: Mapping[str, int], config: Mapping[str, Any]) -> int:
    """Of one node; whatever the tables may not say is a mistake of ours."""
    match node:
        case ast.Constant(value=int(number)):
            return number
        case ast.Name(id=name):
            return sizes[name]
        case ast.Attribute():
            return _number(_looked_up(node, config), _path(node))
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            try:
                return _value(left, sizes, config)
            except Absent as first:
                return _otherwise(right, sizes, config, first)
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATORS[type(op)](_value(left, sizes, config), _value(right, sizes, config))
        case ast.Call(func=ast.Name(id="len"), args=[ast.Attribute() as held]):
            return len(_looked_up(held, config))
        case ast.Compare(
            left=ast.Attribute() as left, ops=[ast.Eq()], comparators=[ast.Constant(value=value)]
        ):
            return int(_looked_up(left, config) == value)
        case ast.Compare(left=left, ops=[ast.Gt()], comparators=[right]):
            return int(_value(left, sizes, config) > _value(right, sizes, config))
    raise AssertionError(f"the tables may not say {ast.unparse(node)}")


def _otherwise(node: ast.expr, sizes: Mapping[str, int], config: Mapping[str, Any], first: Absent) -> int:
    """The right side of ``|``; where it is absent too, the error names the key that was looked for first."""
    try:
        return _value(node, sizes, config)
    except Absent:
        raise first from None


@cache
def _path(node: ast.Attribute) -> str:
    """``a.b`` of ``config.a.b``; nodes are those that `_parsed` keeps."""
    return ast.unparse(node).removeprefix("config.")


def _looked_up(node: ast.Attribute, config: Mapping[str, Any]) -> Any:
    found: Any = config
    for part in _path(node).split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    if found is None:
        raise Absent(_path(node))
    return found


def _number(value: Any, key: str) -> int:
    if isinstance(value, list) and value and all(one == value[0] for one in value):
        # A list with the same number for every layer.
        value = value[0]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int):
        raise NotANumber(f"{key} is {value!r}, expected a whole number")
    return int(value)
