"""Whether the rotary fields of a config.json agree, which transformers 4 and 5 spell differently.

It does not judge the values; families do. A file may hold both spellings, and each version of transformers
reads its own: when they differ, the same checkpoint is two different models.
Source: transformers 5, modeling_rope_utils.py (rope_parameters); 4.57 (rope_scaling, rope_theta).
"""

from __future__ import annotations

from typing import Any

from builders.sources.json_files import shown

# rope_parameters holds these too; in transformers 4 they stand at the top of the file.
_TOP_KEYS = ("rope_theta", "partial_rotary_factor")
_TYPE_KEYS = ("rope_type", "type")
# Phi-3's name for it before transformers had one.
_SYNONYMS = {"su": "longrope", None: "default"}
_BESIDE = "original_max_position_embeddings"
_LAYER_TYPES = ("full_attention", "sliding_attention")


def rope_disagreements(config: dict[str, Any]) -> list[str]:
    """What rope_scaling, rope_theta, ... say otherwise than rope_parameters, each as one line."""
    old, new = config.get("rope_scaling"), config.get("rope_parameters")
    problems = [
        *(_two_types("rope_scaling", old) if isinstance(old, dict) else ()),
        *(_two_types("rope_parameters", new) if isinstance(new, dict) else ()),
    ]
    if isinstance(old, dict):
        problems += _within_scaling(config, old)
    if not isinstance(new, dict):
        return problems
    if all(isinstance(new.get(kind), dict) for kind in _LAYER_TYPES):
        full, sliding = (new[kind] for kind in _LAYER_TYPES)
        local = {"rope_theta": config.get("rope_local_base_freq")}
        problems += _differences(local, sliding, keys=("rope_theta",), where="rope_local_base_freq: ")
    else:
        full = new
    problems += _differences(config, full, keys=_TOP_KEYS)
    if isinstance(old, dict):
        problems += _scaling_differences(old, full)
    return problems


def _two_types(where: str, values: dict[str, Any]) -> list[str]:
    """`rope_type` and its older spelling `type`, when both are there; multimodal models hold "mrope" so."""
    if not all(isinstance(values.get(key), str) for key in _TYPE_KEYS):
        return []
    new, old = (_SYNONYMS.get(values[key], values[key]) for key in _TYPE_KEYS)
    if new == old or (new, old) == ("default", "mrope"):
        return []
    return [f"{where}: its rope_type is {shown(new)}, its type {shown(old)}; they mean the same field"]


def _differences(
    old: dict[str, Any], new: dict[str, Any], *, keys: tuple[str, ...], where: str = ""
) -> list[str]:
    return [
        f"{where}{key}: found {shown(old[key])}, but rope_parameters has {shown(new[key])}; "
        "transformers 4 reads the first, transformers 5 the second: remove the wrong one"
        for key in keys
        if old.get(key) is not None and new.get(key) is not None and old[key] != new[key]
    ]


def _within_scaling(config: dict[str, Any], old: dict[str, Any]) -> list[str]:
    """What rope_scaling says beside the scaling, as only transformers 5 reads it."""
    return [
        f"{key}: found {shown(config[key])}, but rope_scaling has {shown(old[key])}; "
        "transformers 4 reads the first, transformers 5 the second: remove the wrong one"
        for key in _TOP_KEYS
        if config.get(key) is not None and old.get(key) is not None and config[key] != old[key]
    ]


def _scaling_differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    before, after = _plain(old), _plain(new)
    keys = [key for key in sorted({*before, *after}) if before.get(key) != after.get(key)]
    if before["rope_type"] == after["rope_type"] == "longrope" and None in (
        before.get(_BESIDE),
        after.get(_BESIDE),
    ):
        # Transformers 4 has it beside the scaling alone, where families compare it.
        keys = [key for key in keys if key != _BESIDE]
    if not keys:
        return []
    found = ", ".join(f"{key} {shown(before.get(key))} against {shown(after.get(key))}" for key in keys)
    return [
        f"rope_scaling: differs from rope_parameters ({found}); transformers 4 reads the first, "
        "transformers 5 the second: remove the wrong one"
    ]


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """The scaling alone, under one spelling."""
    kind = values.get("rope_type", values.get("type"))
    kept = {key: value for key, value in values.items() if key not in (*_TOP_KEYS, *_TYPE_KEYS)}
    return kept | {"rope_type": _SYNONYMS.get(kind, kind) if isinstance(kind, str | None) else kind}
