"""Keys, defaults and model types of the config classes of models: transformers' and remote code's.

It judges no config.json; `keys` does. Two versions of transformers are kept: the one that is the judge, and
4.57, which the releases of TensorRT-LLM carry. `scripts/dev/config_classes.py` prints both files.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

_NEWER, _OLDER, _REMOTE = "transformers-5.json", "transformers-4.57.json", "remote-code.json"


@dataclass(frozen=True)
class ConfigClass:
    """One class: what an absent key means to it, other names of its keys, and the objects within it.

    `older` has the defaults that transformers 4.57 takes otherwise.
    """

    name: str
    defaults: dict[str, Any]
    aliases: dict[str, str] = field(default_factory=dict)
    older: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, ConfigClass] = field(default_factory=dict)


@cache
def config_class(model_type: str) -> ConfigClass:
    """The class of a model type; KeyError when there is none."""
    remote = _table(_REMOTE)["classes"].get(model_type)
    if remote is not None:
        return ConfigClass(remote["name"], remote["defaults"], remote["aliases"])
    newer, older = (_table(name)["classes"][model_type] for name in (_NEWER, _OLDER))
    return _joined(newer, older)


def is_remote(model_type: str) -> bool:
    """Whether the class is no class of transformers, but of code beside checkpoints."""
    return model_type in _table(_REMOTE)["classes"]


def is_known(model_type: str) -> bool:
    """Whether there is a class of that model type."""
    return is_remote(model_type) or model_type in _table(_NEWER)["classes"]


@cache
def model_types() -> frozenset[str]:
    """Every model type that either version of transformers has a class of, or remote code here."""
    newer, older = (_table(name)["model_types"] for name in (_NEWER, _OLDER))
    return frozenset((*newer, *older, *_table(_REMOTE)["classes"]))


def model_types_of(architecture: str) -> tuple[str, ...]:
    """The model types that transformers builds that class of a model for."""
    found = (_table(name)["architectures"].get(architecture, ()) for name in (_NEWER, _OLDER))
    return tuple(sorted({one for types in found for one in types}))


def _joined(newer: dict[str, Any], older: dict[str, Any]) -> ConfigClass:
    parts = {name: _joined(one, older["parts"][name]) for name, one in newer.get("parts", {}).items()}
    aliases: dict[str, str] = {**older["aliases"], **newer["aliases"]}
    defaults, before = (
        {aliases.get(key, key): value for key, value in one["defaults"].items()} for one in (newer, older)
    )
    return ConfigClass(
        name=newer["name"],
        defaults=before | defaults,
        aliases=aliases,
        older={key: value for key, value in before.items() if key in defaults and defaults[key] != value},
        parts=parts,
    )


@cache
def _table(name: str) -> dict[str, Any]:
    table: dict[str, Any] = json.loads(files(__package__).joinpath(name).read_text(encoding="utf-8"))
    return table
