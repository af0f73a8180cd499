"""Writes what transformers 5 saves in the spelling that transformers 4 reads, for releases that have 4.

The values stay what they are, and the newer keys stay beside the older ones; the source is not touched. What
has no older spelling is refused.
Source: transformers 4.57.3 and 5, configuration_utils.py, modeling_rope_utils.py, tokenization_utils_base.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from builders.sources.json_files import read_json_object
from tpforge.errors import InputRefused

_LAYERS = ("full_attention", "sliding_attention")
_LONG_ROPE = ("longrope", "su")
_ORIGINAL = "original_max_position_embeddings"
_CLASSES = {"TokenizersBackend": "PreTrainedTokenizerFast"}
_RENAMED = {"qwen3_moe": {"num_local_experts": "num_experts"}}
"""By model type, keys that transformers 5 saves, and the names by which 4.57 looks for them."""
_BARE_LONG_ROPES = ("phi3", "phi4_multimodal")
"""Model types whose class in 4.57 refuses a long rope with other keys than its type and two lists."""
_NO_CLASSES = ("quantization_config", "compression_config", "generation_config")
"""Objects of config.json that are of no class of a model."""
_NEW_TOKENIZER_KEYS = ("backend", "is_local", "local_files_only")


def needs_older_spelling(transformers: str) -> bool:
    """Whether a release's transformers, by its version, is one of before 5; an unknown one is not."""
    return transformers.startswith(("3.", "4."))


def respelled(folder: Path) -> dict[str, dict[str, Any]]:
    """The config files of a checkpoint that need another spelling, each with the values it must hold.

    Raises:
        InputRefused: a rope that transformers 4 has no spelling for.
    """
    found = {}
    for name, older in (("config.json", older_config), ("tokenizer_config.json", older_tokenizer_config)):
        path = folder / name
        if path.is_file():
            values = read_json_object(path)
            changed = older(values, where=str(path))
            found.update({name: changed} if changed != values else {})
    return found


def respelling_notes(folder: Path) -> tuple[str, ...]:
    """What `respell` changes in a copy of the folder, one line per file."""
    notes = []
    for name, changed in respelled(folder).items():
        values = read_json_object(folder / name)
        keys = sorted(key for key in {*values, *changed} if values.get(key) != changed.get(key))
        notes.append(f"{name}: {', '.join(keys)} as transformers 4 reads them")
    return tuple(notes)


def respell(folder: Path) -> None:
    """Rewrite the config files of a copied checkpoint.

    Raises:
        InputRefused: a rope that transformers 4 has no spelling for.
    """
    for name, changed in respelled(folder).items():
        # Not into the file, which may be a hard link to the source.
        (folder / name).unlink()
        text = json.dumps(changed, indent=2, ensure_ascii=False) + "\n"
        (folder / name).write_text(text, encoding="utf-8")


def older_config(values: dict[str, Any], *, where: str) -> dict[str, Any]:
    """config.json with rope_theta, rope_scaling, torch_dtype, ... beside what transformers 5 wrote."""
    parts = {
        key: older_config(inner, where=where)
        for key, inner in values.items()
        if key.endswith("_config") and key not in _NO_CLASSES and isinstance(inner, dict)
    }
    found = values | parts | _older_rope(values.get("rope_parameters"), where=where)
    if values.get("model_type") in _BARE_LONG_ROPES:
        found |= _bare_long_rope(found)
    for newer, older in _RENAMED.get(str(values.get("model_type")), {}).items():
        if newer in values:
            found.setdefault(older, values[newer])
    if values.get("dtype") is not None:
        found.setdefault("torch_dtype", values["dtype"])
    return found


def _older_rope(parameters: object, *, where: str) -> dict[str, Any]:
    if not isinstance(parameters, dict):
        return {}
    if not any(isinstance(one, dict) for one in parameters.values()):
        return _flat(parameters)
    if set(parameters) != set(_LAYERS):
        raise InputRefused(
            f"{where}: rope_parameters has a rope for each of {', '.join(sorted(parameters))}, for which the "
            "transformers of this release has no spelling; use a release with transformers 5"
        )
    full, sliding = (_flat(parameters[kind]) for kind in _LAYERS)
    if sliding.get("rope_scaling") is not None:
        raise InputRefused(
            f"{where}: rope_parameters scales the layers with a window, for which the transformers of this "
            "release has no spelling; use a release with transformers 5"
        )
    return full | {"rope_local_base_freq": sliding.get("rope_theta")}


def _bare_long_rope(found: dict[str, Any]) -> dict[str, Any]:
    """The long rope with the three keys alone, and its original length beside it, where the class looks.

    A factor on cosine and sine that is stated is left out: it is what the lengths give, or is refused before.
    """
    scaling = found.get("rope_scaling")
    if not isinstance(scaling, dict) or scaling.get("rope_type", scaling.get("type")) not in _LONG_ROPE:
        return {}
    bare = {"type": _LONG_ROPE[0], **{key: scaling.get(key) for key in ("short_factor", "long_factor")}}
    original = found.get(_ORIGINAL, scaling.get(_ORIGINAL))
    return {"rope_scaling": bare, **({} if original is None else {_ORIGINAL: original})}


def _flat(rope: dict[str, Any]) -> dict[str, Any]:
    """The keys at the top of the file, and what is left as rope_scaling."""
    top = {key: rope[key] for key in ("rope_theta", "partial_rotary_factor") if rope.get(key) is not None}
    scaling = {key: value for key, value in rope.items() if key not in top}
    if scaling.get("rope_type", "default") != "default":
        return {**top, "rope_scaling": scaling}
    # Of plain ropes only those of images have more to say; 4.57 makes its own "default" of the type.
    has_sections = scaling.get("mrope_section") is not None
    return {**top, "rope_scaling": {**scaling, "type": "mrope"} if has_sections else None}


def older_tokenizer_config(values: dict[str, Any], *, where: str) -> dict[str, Any]:
    """tokenizer_config.json with a class that transformers 4 has, and its name for further special tokens."""
    found = {key: value for key, value in values.items() if key not in _NEW_TOKENIZER_KEYS}
    name = found.get("tokenizer_class")
    if isinstance(name, str) and name in _CLASSES:
        found["tokenizer_class"] = _CLASSES[name]
    extra = found.get("extra_special_tokens")
    if isinstance(extra, list):
        del found["extra_special_tokens"]
        found.setdefault("additional_special_tokens", extra)
    return found
