"""What became of arguments of the LLM API from table to table: renamed, dropped, another default.

It moves no value: `builders.migration` does, and an error about a name that is gone says what is here.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from pydantic import Field

from tpforge.records import Record
from tpforge.trtllm.argument_tables import table_names
from tpforge.trtllm.typed_values import Value
from tpforge.trtllm.versions import Release, version_key


class Change(Record):
    """One row: since `table`, argument `name` (with the value `was`, when it says one) is another or gone."""

    table: str
    name: str
    verdict: Literal["renamed", "dropped", "default", "python"]
    was: Value = None
    to: str | None = None
    becomes: Value = None
    before: Value = Field(default=None, alias="from")
    why: str

    def holds_for(self, name: str, value: Value) -> bool:
        """Whether it speaks of this argument with this value."""
        return name == self.name and (self.was is None or str(value).lower() == str(self.was).lower())

    @property
    def text(self) -> str:
        """What an error says of it."""
        if self.verdict == "renamed" and self.to is not None:
            new = self.to if self.becomes is None else f"{self.to}={self.becomes}"
            return f"use {new}: {self.why}"
        return f"is gone: {self.why}" if self.verdict == "dropped" else self.why


@cache
def changes() -> tuple[Change, ...]:
    """All rows, oldest table first as the file has them."""
    text = files("tpforge.trtllm").joinpath("llm_changes.toml").read_text(encoding="utf-8")
    rows: list[dict[str, Any]] = tomllib.loads(text)["change"]
    table = tuple(Change.model_validate(row) for row in rows)
    keys = [(one.table, one.name, str(one.was)) for one in table]
    assert len(set(keys)) == len(keys), "llm_changes.toml: a change is given twice"
    assert {one.table for one in table} <= set(table_names("llm_args.toml")), (
        "llm_changes.toml: no such table"
    )
    return table


def changes_between(old: str, new: str) -> tuple[Change, ...]:
    """The rows that came into force after table `old`, up to table `new`.

    Python objects are in every table, and in none of these.
    """
    order = list(table_names("llm_args.toml"))
    first, last = order.index(old), order.index(new)
    held = [one for one in changes() if one.verdict != "python"]
    return tuple(one for one in held if first < order.index(one.table) <= last)


def place_of(release: Release) -> str:
    """Where a release stands among the changes: its table; for a learned one the newest not later."""
    names = table_names("llm_args.toml")
    if release.llm_arguments in names:
        return str(release.llm_arguments)
    own = version_key(release.trtllm)[:2]
    earlier = [name for name in names if version_key(name)[:2] <= own]
    return earlier[-1] if earlier else names[0]


def value_gone(name: str, value: Value, *, table: str) -> str | None:
    """Why `table` has the argument, and not with that value, which free text would let pass."""
    order = list(table_names("llm_args.toml"))
    held = changes() if table in order else ()
    return next(
        (
            one.text
            for one in held
            if one.verdict == "dropped"
            and one.was is not None
            and order.index(one.table) <= order.index(table)
            and one.holds_for(name, value)
        ),
        None,
    )


def reason_gone(name: str, value: Value, *, table: str) -> str | None:
    """Why `table` does not have the argument with that value, where it is known."""
    order = list(table_names("llm_args.toml"))
    if table not in order:
        return None
    last = order.index(table)
    for one in reversed(changes()):
        parent = one.was is None and name.startswith(f"{one.name}.")
        if (
            order.index(one.table) <= last
            and one.verdict != "default"
            and (one.holds_for(name, value) or parent)
        ):
            return one.text
    return None
