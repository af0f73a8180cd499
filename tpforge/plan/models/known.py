"""The configs of common models, kept here so that a plan of them needs no download.

It reads a table; what a config means is the family's business.
"""

from __future__ import annotations

import json
import re
import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

from tpforge.records import Record


class KnownModel(Record):
    """A model by its short name: its id on the hub, its parameters, the essentials of its config.json.

    `aliases` are other names that people give it; `hf_quant_config` is ModelOpt's file beside config.json.
    """

    name: str
    id: str
    parameters: int
    config: dict[str, Any]
    aliases: tuple[str, ...] = ()
    hf_quant_config: dict[str, Any] | None = None


@cache
def known_models() -> tuple[KnownModel, ...]:
    """All of them, in the order of the tables."""
    folder = files("tpforge.plan.models")
    older = tomllib.loads(folder.joinpath("models.toml").read_text(encoding="utf-8"))
    today = json.loads(folder.joinpath("todays_models.json").read_text(encoding="utf-8"))["models"]
    return (*(_known(name, row) for name, row in older.items()), *map(KnownModel.model_validate, today))


def find_known(name: str) -> KnownModel | None:
    """The model of that short name or hub id, in any case and spelling; chat variants are the same model."""
    wanted = name.lower()
    for suffix in ("", "-instruct", "-it", "-chat"):
        for model in known_models():
            if wanted.removesuffix(suffix) in (model.name, model.id.lower()):
                return model
    if "/" in name:
        return None
    return next((found for suffix in _CHAT if (found := _by_spelling().get(_letters(name, suffix)))), None)


_CHAT = ("", "instruct", "it", "chat")


def _letters(name: str, suffix: str = "") -> str:
    """Letters and figures alone: ``GPT_OSS 120B`` and ``gpt-oss-120b`` are one name."""
    return re.sub(r"[^a-z0-9]", "", name.lower()).removesuffix(suffix)


@cache
def _by_spelling() -> dict[str, KnownModel]:
    found: dict[str, KnownModel] = {}
    for model in known_models():
        for name in (model.name, *model.aliases, model.id.rpartition("/")[2]):
            # Of two models spelled alike without their points, only the exact names are told apart.
            found.setdefault(_letters(name), model)
    return found


def _known(name: str, row: dict[str, Any]) -> KnownModel:
    """A row; TOML has no null, so the keys that are null in config.json stand in `nulls`."""
    nulls = dict.fromkeys(row.pop("nulls", ()))
    return KnownModel.model_validate({"name": name, **row, "config": {**row["config"], **nulls}})
