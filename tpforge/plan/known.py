"""The configs of common models, kept here so that a plan of them needs no download.

It reads a table; what a config means is the family's business.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

from tpforge.records import Record


class KnownModel(Record):
    """A model by its short name: its id on the hub, its parameters, the essentials of its config.json."""

    name: str
    id: str
    parameters: int
    config: dict[str, Any]


@cache
def known_models() -> tuple[KnownModel, ...]:
    """All of them, in the order of the table."""
    text = files("tpforge.plan").joinpath("models.toml").read_text(encoding="utf-8")
    return tuple(_known(name, row) for name, row in tomllib.loads(text).items())


def find_known(name: str) -> KnownModel | None:
    """The model of that short name or hub id, in any case; chat variants are the same model."""
    wanted = name.lower()
    for suffix in ("", "-instruct", "-it", "-chat"):
        for model in known_models():
            if wanted.removesuffix(suffix) in (model.name, model.id.lower()):
                return model
    return None


def _known(name: str, row: dict[str, Any]) -> KnownModel:
    """A row; TOML has no null, so the keys that are null in config.json stand in `nulls`."""
    nulls = dict.fromkeys(row.pop("nulls", ()))
    return KnownModel.model_validate({"name": name, **row, "config": {**row["config"], **nulls}})
