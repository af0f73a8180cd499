"""The LLM API's arguments as a user gives them: nested or dotted, checked by a release's table, or past it.

Relations between two arguments are `builders.llm_api.arguments`'s.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tpforge.errors import UsageError
from tpforge.trtllm.arguments import Argument, ArgumentTable, check_values, read_value
from tpforge.trtllm.learned import NAME
from tpforge.trtllm.llm_changes import reason_gone, value_gone
from tpforge.trtllm.typed_values import as_json
from tpforge.trtllm.versions import Release

_SURE = {
    "read": "read from this release's own files",
    "near": "read from upstream's files beside this release",
    "unsure": "not compared with this release",
}
_LEARN = "`tpforge versions --learn` reads an installed release's own"


def check_given(given: Mapping[str, Any], table: ArgumentTable, *, release: Release) -> dict[str, Any]:
    """The user's arguments by their dotted names, as the table has them.

    Raises:
        UsageError: an argument is unknown, of a wrong type, or not a choice; all of them at once.
    """
    return check_values(
        flatten(given, known={one.name for one in table.arguments}),
        table.arguments,
        what=f"the LLM API of TensorRT-LLM {release.trtllm}",
        why=lambda name, value: reason_gone(name, value, table=table.name),
        gone=lambda name, value: value_gone(name, value, table=table.name),
        advice=_advice(table, release),
    )


def read_unchecked(
    given: Mapping[str, Any], table: ArgumentTable, *, own: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments that are passed on past the table; text is read as JSON where it is JSON.

    Raises:
        UsageError: one is set by tpforge itself, or is given checked too.
    """
    rows = {name: one for one in table.arguments for name in (one.name, *one.aliases)}
    owned = {name for name, one in rows.items() if one.owned}
    values = {name: as_json(value) for name, value in flatten(given, known=()).items()}
    problems = [f"{name}: is set by tpforge itself" for name in values if name in owned]
    problems += [f"{name}: is given by --llm-arg too" for name in values if name in own]
    if table.name == NAME:
        problems += [
            f"{name}{said}" for name, value in values.items() if (said := _refusal(value, rows.get(name)))
        ]
    if problems:
        raise UsageError("\n  ".join(["--llm-arg-unchecked:", *sorted(problems)]))
    return values


def unchecked_word(value: Any) -> str:
    """An unchecked value as a word of a command line, which `read_unchecked` reads back as it is."""
    return value if isinstance(value, str) else json.dumps(value)


def checked_by(table: ArgumentTable, *, release: Release) -> str:
    """Which table it was and how sure it is, for people and for engine.json."""
    if release.learned is not None:
        return f"what was learned from TensorRT-LLM {release.trtllm} itself, {release.learned[:12]}"
    return f"table {table.name}, {_SURE[release.arguments_sure]}"


def doubts(
    own: Mapping[str, Any], forced: Mapping[str, Any], table: ArgumentTable, *, release: Release
) -> Iterator[str]:
    """How sure the table is of what was given, and what went past it."""
    if release.arguments_sure == "unsure":
        yield (
            f"the arguments of TensorRT-LLM {release.trtllm} were not compared with upstream: table "
            f"{table.name} was taken ({table.source}); {_LEARN}"
        )
    unsure = [one.name for one in table.arguments if one.name in own and not one.sure]
    if unsure:
        yield f"not sure for {release.trtllm}: {', '.join(unsure)}; {_LEARN}"
    for status in ("deprecated",):
        names = [one.name for one in table.arguments if one.name in own and one.status == status]
        for name in names:
            reason = reason_gone(name, own[name], table=table.name)
            yield f"{name}: is {status} in {release.trtllm}" + (f"; {reason}" if reason else "")
    for name, value in forced.items():
        yield f"{name}: passed on unchecked{_verdict(name, value, table)}"


def flatten(values: Mapping[str, Any], *, known: Iterable[str], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted names; a table that is an argument itself stays whole.

    A table may also be given as JSON, as on a command line.
    """
    names = set(known)
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        has_parts = any(one.startswith(f"{name}.") for one in names)
        inner = _table(value) if has_parts else value
        if isinstance(inner, Mapping) and (has_parts or name not in names):
            flat |= flatten(inner, known=names, prefix=f"{name}.")
        else:
            flat[name] = value
    return flat


def _advice(table: ArgumentTable, release: Release) -> str:
    if release.learned is not None:
        return f"checked by what was learned from it: {table.source}"
    return (
        f"checked by table {table.name} ({table.source}); if {release.trtllm} takes it all the same: "
        f"{_LEARN}, and --llm-arg-unchecked NAME=VALUE passes it on"
    )


def _refusal(value: Any, row: Argument | None) -> str:
    """What a release itself says against a value, which no word of ours gets past; empty for nothing."""
    if row is None:
        return ": the installed release does not have it, and unknown keys end its start"
    try:
        read_value(value, row)
    except ValueError as error:
        return f": the installed release refuses it: {error}"
    return ""


def _verdict(name: str, value: Any, table: ArgumentTable) -> str:
    """What the table would have said of an unchecked value."""
    row = next((one for one in table.arguments if name in (one.name, *one.aliases)), None)
    if row is None:
        return f"; table {table.name} does not have it"
    try:
        read_value(value, row)
    except ValueError as error:
        return f"; table {table.name}: {error}"
    return ", though the table takes it: --llm-arg checks it"


def _table(value: Any) -> Any:
    return as_json(value) if isinstance(value, str) and value.lstrip().startswith("{") else value
