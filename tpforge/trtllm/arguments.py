"""Arguments of trtllm-build and of the LLM API, by release: name, type, default, choices; and values checked.

It knows no relation between two arguments: `builders.tensorrt.relations` and `builders.llm_api.arguments` do.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any, Literal, TypeAlias

from pydantic import Field

from tpforge.errors import UsageError
from tpforge.records import Record
from tpforge.trtllm.versions import Release

ArgumentType = Literal["int", "float", "bool", "str", "choice", "switch", "flag", "list", "ints", "object"]
Value: TypeAlias = Any
"""bool, int, float, str, None, or lists and dicts of them: what TOML, JSON and YAML can hold."""


class Argument(Record):
    """One argument; `default` None is left to the model, or off. `owned` ones are set by tpforge alone.

    `nullable` ones may be None, which turns something off.
    """

    name: str
    type: ArgumentType
    default: Value = None
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    aliases: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    owned: bool = False
    nullable: bool = False
    status: Literal["beta", "prototype", "deprecated", "removed"] | None = None
    meaning: str
    group: str = ""
    source: str = ""

    @property
    def type_text(self) -> str:
        """The type for people: its choices where it has some."""
        if self.type == "switch":
            return "enable|disable"
        return "|".join(self.choices) if self.choices else self.type

    @property
    def default_text(self) -> str:
        """The default as it would be written; ``-`` for none."""
        return "-" if self.default is None else write_value(self.default)


class _Group(Record):
    table: str
    name: str
    source: str
    arguments: tuple[Argument, ...] = Field(min_length=1)


def build_arguments(release: Release) -> tuple[Argument, ...]:
    """The arguments of trtllm-build of a release, which must have a table of them."""
    assert release.build_arguments is not None
    return _table("build_args.toml", release.build_arguments)


def llm_arguments(release: Release) -> tuple[Argument, ...]:
    """The arguments of the LLM API of a release, which must have a table of them; a dot is a level."""
    assert release.llm_arguments is not None
    return _table("llm_args.toml", release.llm_arguments)


def check_values(given: Mapping[str, Value], table: Iterable[Argument], *, what: str) -> dict[str, Value]:
    """The values by their arguments' own names; strings, as of a command line, become what they say.

    Raises:
        UsageError: unknown names (with the nearest known), wrong types or choices, values that tpforge sets
            itself; all of them at once. `what` names the program in it.
    """
    known = {name: one for one in table for name in (one.name, *one.aliases)}
    values: dict[str, Value] = {}
    problems = []
    for key, value in given.items():
        name = key.removeprefix("--").replace("-", "_")
        argument = known.get(name)
        if argument is None:
            problems.append(f"{key}: {_unknown(name, known)}")
            continue
        try:
            values[argument.name] = read_value(value, argument)
        except ValueError as error:
            problems.append(f"{key}: {error}")
    if problems:
        raise UsageError("\n  ".join([f"arguments of {what}:", *sorted(problems)]))
    return values


def parse_pairs(pairs: Iterable[str], *, option: str) -> dict[str, str]:
    """The pairs ``key=value`` of an option that may be repeated; a key alone is a flag.

    Raises:
        UsageError: a pair has no key, or a key is given twice.
    """
    values: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key:
            raise UsageError(f"{option} {pair}: expected KEY=VALUE")
        if key in values:
            raise UsageError(f"{option} {key}: given twice")
        values[key] = value if equals else "true"
    return values


def read_value(value: Value, argument: Argument) -> Value:
    """A value as its argument has it.

    Raises:
        ValueError: it has another type, is no choice or out of range; or is not the user's to set.
    """
    if argument.owned:
        raise ValueError(f"is set by tpforge itself: {argument.meaning.split('; ')[0]}")
    if argument.status == "removed":
        raise ValueError(f"no longer works: {argument.meaning}")
    if value is None or (argument.nullable and value in ("null", "none", "")):
        if argument.nullable:
            return None
        raise ValueError("found nothing, expected a value")
    found = _typed(value, argument)
    for one in found if isinstance(found, list) else [found]:
        if argument.choices and one not in argument.choices:
            raise ValueError(f"found {one!r}, expected one of {', '.join(argument.choices)}")
        if isinstance(one, int | float) and not isinstance(one, bool):
            _check_range(one, argument)
    return found


def write_value(value: Value) -> str:
    """A value as a word of a command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return " ".join(write_value(one) for one in value)
    return json.dumps(value) if isinstance(value, dict) else str(value)


def _check_range(value: float, argument: Argument) -> None:
    low, high = argument.minimum, argument.maximum
    if (low is not None and value < low) or (high is not None and value > high):
        span = f"{low:g} or more" if high is None else f"{low or 0:g} to {high:g}"
        raise ValueError(f"found {value}, expected {span}")


def _typed(value: Value, argument: Argument) -> Value:
    match argument.type:
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
            parts = value.strip("[] ").split(",") if isinstance(value, str) else _sequence(value)
            return [_integer(one) for one in parts]
        case "object":
            return _object(value)
    if not isinstance(value, str):
        raise ValueError(f"found {value!r}, expected text")
    return value


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


def _sequence(value: Value) -> list[Value]:
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"found {value!r}, expected a list of one or more")
    return list(value)


def _object(value: Value) -> Value:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError(f"found {value!r}, expected JSON") from None
    if not isinstance(value, dict | list):
        raise ValueError(f"found {value!r}, expected a table")
    return value


def _unknown(name: str, known: Iterable[str]) -> str:
    nearest = get_close_matches(name, list(known), n=1, cutoff=0.6)
    if not nearest:
        ends = [one for one in known if one.rsplit(".", 1)[-1] == name.rsplit(".", 1)[-1]]
        nearest = ends[:1]
    return "unknown argument" + (f"; did you mean {nearest[0]}?" if nearest else "")


@cache
def _table(file: str, table: str) -> tuple[Argument, ...]:
    text = files("tpforge.trtllm").joinpath(file).read_text(encoding="utf-8")
    groups = [_Group.model_validate(value) for value in tomllib.loads(text)["group"]]
    arguments = tuple(
        one.model_copy(update={"group": group.name, "source": group.source})
        for group in groups
        if group.table == table
        for one in group.arguments
    )
    names = [name for one in arguments for name in (one.name, *one.aliases)]
    assert arguments, f"{file} has no table {table}"
    assert len(set(names)) == len(names), f"{file}: an argument is given twice"
    return arguments
