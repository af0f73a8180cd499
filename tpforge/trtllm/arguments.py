"""Arguments of trtllm-build and of the LLM API, by release: name, type, default, choices; and values checked.

It knows no relation between two arguments: `builders.tensorrt.relations` and `builders.llm_api` do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Literal

from pydantic import Field

from tpforge.errors import UsageError
from tpforge.records import Record
from tpforge.trtllm.typed_values import ArgumentType, Value, read_typed, write_value


class Argument(Record):
    """One argument; `default` None is left to the model, or off. `owned` ones are set by tpforge alone.

    `also` are further types of a value. `only` are the tags of its table that it belongs to, and `defaults`
    its defaults where they differ by tag. `nullable` ones may be None. `sure` is False where its release was
    not read, but a neighbour.
    """

    name: str
    type: ArgumentType
    also: tuple[ArgumentType, ...] = ()
    default: Value = None
    defaults: dict[str, Value] = Field(default_factory=dict)
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None
    below: float | None = None
    aliases: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    owned: bool = False
    required: bool = False
    nullable: bool = False
    status: Literal["beta", "prototype", "deprecated", "removed"] | None = None
    sure: bool = True
    meaning: str
    group: str = ""
    source: str = ""

    @property
    def type_text(self) -> str:
        """The type for people: its choices where it has some."""
        if self.type == "switch":
            return "enable|disable"
        names = [one for one in (self.type, *self.also) if not (one == "choice" and self.choices)]
        return "|".join([*(() if self.type == "choice" else names), *self.choices])

    @property
    def default_text(self) -> str:
        """The default as it would be written; ``-`` for none."""
        if self.defaults:
            return ", ".join(f"{write_value(value)} ({tag})" for tag, value in self.defaults.items())
        return "-" if self.default is None else write_value(self.default)


class ArgumentTable(Record):
    """The arguments of one release or several; `tags` names, by table, the argument that `only` speaks of."""

    name: str
    source: str
    arguments: tuple[Argument, ...]
    tags: dict[str, str] = Field(default_factory=dict)


def check_values(
    given: Mapping[str, Value],
    table: Iterable[Argument],
    *,
    what: str,
    why: Callable[[str, Value], str | None] | None = None,
    gone: Callable[[str, Value], str | None] | None = None,
    advice: str | None = None,
) -> dict[str, Value]:
    """The values by their arguments' own names; strings, as of a command line, become what they say.

    `what` names the program in an error, `why` says of a name and value what is known of their end, `gone` of
    a value that its type allows, and `advice` is what to do all the same.

    Raises:
        UsageError: unknown names (with the nearest known), wrong types or choices, values that tpforge sets
            itself; all of them at once.
    """
    known = {name: one for one in table for name in (one.name, *one.aliases)}
    values: dict[str, Value] = {}
    problems = []
    for key, value in given.items():
        name = key.removeprefix("--").replace("-", "_")
        argument = known.get(name)
        reason = why(name, value) if why is not None else None
        if argument is None:
            problems.append(f"{key}: {reason or _unknown(name, known)}")
            continue
        if argument.name in values:
            problems.append(f"{key}: given twice, as {argument.name} too")
        try:
            values[argument.name] = read_value(value, argument)
        except ValueError as error:
            problems.append(f"{key}: {error}{f'; {reason}' if reason else ''}")
            continue
        if gone is not None and (said := gone(argument.name, values[argument.name])) is not None:
            problems.append(f"{key}: found {write_value(value)}, which {said}")
    if problems:
        last = [advice] if advice else []
        raise UsageError("\n  ".join([f"arguments of {what}:", *sorted(problems), *last]))
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
    if value is None or (
        argument.nullable and value in ("null", "none", "") and value not in argument.choices
    ):
        if argument.nullable:
            return None
        raise ValueError("found nothing, expected a value")
    problems = []
    for kind in (argument.type, *argument.also):
        try:
            return _read(value, kind, argument)
        except ValueError as error:
            problems.append(str(error))
    first, *others = problems
    raise ValueError(" or ".join([first, *(one.partition("expected ")[2] for one in others)]))


def _read(value: Value, kind: ArgumentType, argument: Argument) -> Value:
    found = read_typed(value, kind)
    for one in found if isinstance(found, list) else [found]:
        if argument.choices and isinstance(one, str) and one not in argument.choices:
            raise ValueError(f"found {one!r}, expected one of {', '.join(argument.choices)}")
        if isinstance(one, int | float) and not isinstance(one, bool):
            _check_range(one, argument)
    return found


def _check_range(value: float, argument: Argument) -> None:
    low, above, high, below = argument.minimum, argument.above, argument.maximum, argument.below
    reached = (low is None or value >= low) and (high is None or value <= high)
    if reached and (above is None or value > above) and (below is None or value < below):
        return
    upper = (
        None if high is None and below is None else f"{high:g}" if high is not None else f"below {below:g}"
    )
    if above is not None:
        span = f"more than {above:g}" + (f", up to {upper}" if upper else "")
    elif upper is None:
        span = f"{low:g} or more"
    else:
        span = f"{low or 0:g} to {upper}"
    raise ValueError(f"found {value}, expected {span}")


def _unknown(name: str, known: Iterable[str]) -> str:
    nearest = get_close_matches(name, list(known), n=1, cutoff=0.6)
    if not nearest:
        ends = [one for one in known if one.rsplit(".", 1)[-1] == name.rsplit(".", 1)[-1]]
        nearest = ends[:1]
    return "unknown argument" + (f"; did you mean {nearest[0]}?" if nearest else "")
