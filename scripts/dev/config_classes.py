"""Prints transformers' config classes, their keys, defaults and types, for builders/families/config_classes/.

It imports nothing of tpforge, so that it also runs in the environment of another version:
``python scripts/dev/config_classes.py > builders/families/config_classes/transformers-VERSION.json``.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from typing import Any

import transformers
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

MODEL_TYPES = (
    "bloom",
    "cohere",
    "dbrx",
    "deepseek_v2",
    "falcon",
    "gemma",
    "gemma2",
    "gemma3_text",
    "gpt2",
    "gpt_bigcode",
    "gpt_neox",
    "gptj",
    "granite",
    "llama",
    "mistral",
    "mixtral",
    "mpt",
    "nemotron",
    "opt",
    "phi",
    "phi3",
    "phimoe",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "starcoder2",
)
_OF_ALL = ("tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id")
"""Keys that every model has, whether its class names them or leaves them to the class above it."""
_GEMMA3_BASES = {"global": "rope_theta", "local": "rope_local_base_freq"}


def tables() -> dict[str, Any]:
    """Every class by its model type, and the keys that all of them share."""
    base = _own_keys(transformers.PretrainedConfig)
    classes = {name: _table(CONFIG_MAPPING[name], base=base) for name in MODEL_TYPES}
    shared = transformers.PretrainedConfig().to_dict()
    shared.pop("transformers_version")
    return {
        "transformers": transformers.__version__,
        "shared": shared,
        "classes": classes,
        "model_types": sorted(CONFIG_MAPPING.keys()),
        "architectures": _architectures(),
    }


def _architectures() -> dict[str, list[str]]:
    """The model types of every class that generates text."""
    found: dict[str, set[str]] = {}
    for mapping in (
        modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    ):
        for model_type, names in mapping.items():
            for name in (names,) if isinstance(names, str) else names:
                found.setdefault(name, set()).add(model_type)
    return {name: sorted(types) for name, types in found.items()}


def _table(config_class: Any, *, base: dict[str, Any]) -> dict[str, Any]:
    found = {key: value for key, value in _own_keys(config_class).items() if key not in base}
    if not config_class.base_config_key:
        stated = config_class().to_dict()
        found |= {key: stated.get(key) for key in _OF_ALL if key not in found}
    parts = {name: _table(part, base=base) for name, part in config_class.sub_configs.items()}
    return {
        "name": config_class.__name__,
        "defaults": dict(sorted((found | _bases(config_class)).items())),
        "aliases": dict(sorted(config_class.attribute_map.items())),
        **({"parts": parts} if parts else {}),
    }


def _own_keys(config_class: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(config_class):
        return {one.name: _plain(one.default) for one in dataclasses.fields(config_class)}
    parameters = inspect.signature(config_class.__init__).parameters.values()
    named = (one for one in parameters if one.name != "self" and one.kind is not one.VAR_KEYWORD)
    return {one.name: _plain(one.default) for one in named}


def _bases(config_class: Any) -> dict[str, Any]:
    """The bases of ropes, which transformers 5 keeps beside the fields."""
    base = getattr(config_class, "default_theta", None)
    if isinstance(base, dict):
        return {_GEMMA3_BASES[name]: value for name, value in base.items()}
    has_rope = "rope_parameters" in _own_keys(config_class)
    return {"rope_theta": base} if base is not None and has_rope else {}


def _plain(value: Any) -> Any:
    """None for what a class makes anew for each config: a list or a part."""
    return value if isinstance(value, int | float | str | bool | list | dict | None) else None


if __name__ == "__main__":
    print(json.dumps(tables(), indent=1, sort_keys=True))
