"""The tables of arguments of trtllm-build and of the LLM API by release: what was learned, else what ships.

It checks no value: `tpforge.trtllm.arguments` does.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files

from pydantic import Field

from tpforge.records import Record
from tpforge.trtllm.arguments import Argument, ArgumentTable
from tpforge.trtllm.learned import NAME, Learned, find_learned
from tpforge.trtllm.versions import Release


class _Row(Argument):
    """An argument in a file: `tables` are those that have it, all when empty; `unsure` those not read."""

    tables: tuple[str, ...] = ()
    unsure: tuple[str, ...] = ()


class _Group(Record):
    name: str
    source: str | None = None
    arguments: tuple[_Row, ...] = Field(min_length=1)


class _Table(Record):
    name: str
    source: str


class _File(Record):
    tags: dict[str, str] = Field(default_factory=dict)
    table: tuple[_Table, ...]
    group: tuple[_Group, ...]


def build_arguments(release: Release) -> tuple[Argument, ...]:
    """The arguments of trtllm-build of a release, which must have a table of them."""
    assert release.build_arguments is not None
    if release.build_arguments == NAME:
        newest = shipped_table("build_args.toml", table_names("build_args.toml")[-1])
        return _learned(release).build_table(newest.arguments)
    return shipped_table("build_args.toml", release.build_arguments).arguments


def llm_arguments(release: Release) -> tuple[Argument, ...]:
    """The arguments of the LLM API of a release, which must have a table of them; a dot is a level."""
    return llm_table(release).arguments


def llm_table(release: Release) -> ArgumentTable:
    """The table of the LLM API's arguments of a release, with its source."""
    assert release.llm_arguments is not None
    if release.llm_arguments == NAME:
        return _learned(release).table
    return shipped_table("llm_args.toml", release.llm_arguments)


def learned_architectures(release: Release) -> tuple[str, ...]:
    """The architectures that a learned release registers; none where it was not learned."""
    return _learned(release).architectures if release.learned is not None else ()


def _learned(release: Release) -> Learned:
    found = find_learned(release.trtllm)
    assert found is not None, f"what was learned of {release.trtllm} is gone"
    return found


def table_names(file: str) -> tuple[str, ...]:
    """The names of the tables of a file of this package, oldest first."""
    return tuple(one.name for one in _read(file).table)


@cache
def _read(file: str) -> _File:
    text = files("tpforge.trtllm").joinpath(file).read_text(encoding="utf-8")
    return _File.model_validate(tomllib.loads(text))


@cache
def shipped_table(file: str, table: str) -> ArgumentTable:
    """The table of that name of a file of this package."""
    held = _read(file)
    found = {one.name: one for one in held.table}
    rows = [(group, row) for group in held.group for row in group.arguments]
    wrong = {name for _, row in rows for name in (*row.tables, *row.unsure) if name not in found}
    assert not wrong, f"{file}: no such table: {', '.join(sorted(wrong))}"
    arguments = tuple(
        _argument(row, table=found[table], group=group)
        for group, row in rows
        if not row.tables or table in row.tables
    )
    names = [name for one in arguments for name in (one.name, *one.aliases)]
    assert arguments, f"{file} has no table {table}"
    assert len(set(names)) == len(names), f"{file}: an argument is given twice"
    return ArgumentTable(name=table, source=found[table].source, arguments=arguments, tags=held.tags)


def _argument(row: _Row, *, table: _Table, group: _Group) -> Argument:
    values = row.model_dump(exclude={"tables", "unsure", "sure", "group", "source"})
    sure, source = table.name not in row.unsure, group.source or table.source
    return Argument(**values, sure=sure, group=group.name, source=source)
