"""Sizes that a user states of an architecture that is in no table, and what to know of a declared model.

It invents nothing: a description names an architecture of the table that the model is made like.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from tpforge.architectures.declared import Declared, declared_by
from tpforge.architectures.stored import StoredFormats
from tpforge.architectures.table import common_sizes, find_architecture, refuse_unknown
from tpforge.errors import InputRefused
from tpforge.records import Record
from tpforge.toml_text import parse_toml


class _Description(Record):
    """A file of --describe: a class that the model is made like, and sizes that differ."""

    like: str
    sizes: dict[str, int] = Field(default_factory=dict)
    config: dict[str, Any] = Field(default_factory=dict)


def description(path: Path) -> dict[str, Any]:
    """What a file of --describe says, for the record of an engine.

    Raises:
        InputRefused: the file cannot be read, or is none.
    """
    return _read(path).model_dump(exclude_defaults=True)


def read_described(path: Path, config: Mapping[str, Any], *, where: str) -> Declared:
    """The model of a config.json by a description; keys of its `config` stand in for those of config.json.

    Raises:
        InputRefused: the file cannot be read, names no known class or size, or a size is missing.
    """
    given = _read(path)
    row = find_architecture(given.like)
    if row is None:
        raise refuse_unknown(given.like, where=str(path), advice="name one of docs/models.md in `like`")
    known = {**common_sizes(), **row.sizes}
    if unknown := sorted(set(given.sizes) - set(known)):
        raise InputRefused(
            f"{path}: sizes.{unknown[0]} is none of the sizes of {given.like}; they are {', '.join(known)}"
        )
    if wrong := [f"{name} = {size}" for name, size in given.sizes.items() if size < 0]:
        raise InputRefused(f"{path}: sizes are not negative, found {', '.join(wrong)}")
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else given.like
    return declared_by(
        row, {**config, **given.config}, class_name=name, where=f"{where} by {path}", given=given.sizes
    )


def _read(path: Path) -> _Description:
    try:
        return _Description.model_validate(parse_toml(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputRefused(f"{path}: cannot be read: {error}") from error
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        raise InputRefused.listing(
            f"{path}: expected like = CLASS, and tables [sizes] and [config]:", problems
        ) from error


def declared_notes(declared: Declared, stored: StoredFormats | None) -> tuple[str, ...]:
    """What a plan of a declared model leaves out, or takes for given."""
    notes = []
    if stored is not None and "," in stored.title:
        notes.append(
            f"the checkpoint holds its matrices in {stored.title}; bytes are counted for each of them"
        )
    if declared.num_mtp_layers:
        notes.append(
            f"{declared.num_mtp_layers} layers of multi-token prediction are not counted: a server holds "
            "them only where it speculates with them"
        )
    if declared.row.tower is not None and not declared.has_tower:
        notes.append("config.json declares no vision tower, so none is counted")
    return tuple(notes)
