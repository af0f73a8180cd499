"""Arguments from a JSON schema, in each form that pydantic and upstream's own generator write."""

from __future__ import annotations

from typing import Any

import pytest

from tpforge.errors import InputRefused, UsageError
from tpforge.trtllm.arguments import Argument, check_values
from tpforge.trtllm.schema_arguments import arguments_of

DEFS: dict[str, Any] = {
    "Mode": {"enum": ["full", "none"], "title": "Mode", "type": "string"},
    "Inner": {
        "type": "object",
        "properties": {"depth": {"type": "integer", "default": 3}, "mode": {"$ref": "#/$defs/Mode"}},
        "required": ["mode"],
    },
    "Decode": {"type": "object", "properties": {"sizes": {"type": "array", "items": {"type": "integer"}}}},
    "Encode": {"type": "object", "properties": {"sizes": {"type": "integer"}, "lens": {"type": "boolean"}}},
    "Loop": {"type": "object", "properties": {"again": {"$ref": "#/$defs/Loop"}}},
}


def rows(**properties: Any) -> dict[str, Argument]:
    found, _ = arguments_of({"$defs": DEFS, "properties": properties})
    return {one.name: one for one in found}


@pytest.mark.parametrize(
    ("node", "kinds", "nullable", "choices"),
    [
        ({"type": "integer"}, ("int",), False, ()),
        ({"type": ["integer", "null"]}, ("int",), True, ()),
        ({"anyOf": [{"type": "number"}, {"type": "null"}]}, ("float",), True, ()),
        ({"anyOf": [{"type": "string"}, {"type": "string", "format": "path"}]}, ("str",), False, ()),
        ({"$ref": "#/$defs/Mode", "default": "full"}, ("choice",), False, ("full", "none")),
        ({"allOf": [{"$ref": "#/$defs/Mode"}], "default": "full"}, ("choice",), False, ("full", "none")),
        ({"const": "x"}, ("choice",), False, ("x",)),
        ({"anyOf": [{"$ref": "#/$defs/Mode"}, {"type": "string"}]}, ("str",), False, ()),
        ({"anyOf": [{"type": "string"}, {"enum": [0, 1, 2], "type": "integer"}]}, ("int", "str"), False, ()),
        (
            {"anyOf": [{"type": "boolean"}, {"const": "auto", "type": "string"}]},
            ("bool", "choice"),
            False,
            ("auto",),
        ),
        ({"type": "array", "items": {"$ref": "#/$defs/Mode"}}, ("list",), False, ("full", "none")),
        ({"type": "array", "items": {"type": "number"}}, ("floats",), False, ()),
        ({"type": "array", "items": {"type": "array", "items": {"type": "integer"}}}, ("items",), False, ()),
        ({"type": "object", "additionalProperties": {"type": "string"}}, ("object",), False, ()),
        ({}, ("any",), False, ()),
        ({"type": "a kind of next year"}, ("any",), False, ()),
    ],
)
def test_a_type_is_read_in_each_form(
    node: dict[str, Any], kinds: tuple[str, ...], nullable: bool, choices: tuple[str, ...]
) -> None:
    one = rows(x=node)["x"]
    assert ((one.type, *one.also), one.nullable, one.choices) == (kinds, nullable, choices)


def test_bounds_of_a_number_and_of_the_numbers_of_a_list_hold() -> None:
    found = rows(
        a={"type": "integer", "exclusiveMinimum": 0},
        b={"anyOf": [{"type": "number", "minimum": 0, "exclusiveMaximum": 1}, {"type": "null"}]},
        c={"type": "array", "items": {"type": "integer", "minimum": 2}},
    )
    for name, value in (("a", 0), ("b", 1), ("b", -0.1), ("c", [3, 1])):
        with pytest.raises(UsageError, match="expected"):
            check_values({name: value}, found.values(), what="x")
    good = {"a": 1, "b": 0.5, "c": [2]}
    assert check_values(good, found.values(), what="x") == good


def test_levels_become_dots_with_what_they_require_and_null_stays_possible() -> None:
    found = rows(
        outer={"anyOf": [{"$ref": "#/$defs/Inner", "description": "said here"}, {"type": "null"}]},
        other={"$ref": "#/$defs/Inner"},
    )
    assert found.keys() == {"outer", "outer.depth", "outer.mode", "other.depth", "other.mode"}
    assert (found["outer"].type, found["outer"].nullable) == ("object", True)
    assert (found["outer.depth"].default, found["outer.mode"].required) == (3, True)


def test_a_union_without_a_tag_takes_what_any_of_its_members_takes() -> None:
    found, tags = arguments_of(
        {
            "$defs": DEFS,
            "properties": {"g": {"oneOf": [{"$ref": "#/$defs/Decode"}, {"$ref": "#/$defs/Encode"}]}},
        }
    )
    by_name = {one.name: one for one in found}
    assert tags == {}
    assert ((by_name["g.sizes"].type, *by_name["g.sizes"].also), by_name["g.lens"].only) == (
        ("int", "ints"),
        (),
    )


def test_a_status_of_upstream_is_kept_and_another_is_not_guessed() -> None:
    found = rows(
        a={"type": "integer", "status": "beta"},
        b={"type": "integer", "deprecated": True},
        c={"type": "integer", "status": "of next year"},
    )
    assert [found[name].status for name in "abc"] == ["beta", "deprecated", None]


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({}, "has no properties"),
        ({"properties": {}}, "has no properties"),
        ({"properties": {"x": {"$ref": "#/$defs/Missing"}}}, "#/\\$defs/Missing is not in its"),
        ({"$defs": DEFS, "properties": {"x": {"$ref": "#/$defs/Loop"}}}, "refers to itself without end"),
    ],
)
def test_what_cannot_be_read_is_refused(schema: dict[str, Any], said: str) -> None:
    with pytest.raises(InputRefused, match=said):
        arguments_of(schema)
