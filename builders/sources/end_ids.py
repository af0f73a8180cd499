"""The id that ends an answer, where neither config.json nor generation_config.json says it: the tokenizer's.

It tokenizes nothing; the files of the tokenizer name the token and its id.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from builders.sources.json_files import read_json_object
from tpforge.errors import InputRefused

NO_END = (
    "no id ends an answer: config.json, generation_config.json and the tokenizer name none, so that answers "
    "go on to their largest length; add eos_token_id to generation_config.json"
)


def tokenizer_end_id(folder: Path) -> int | None:
    """The id of the tokenizer's eos_token; None when its files do not say it."""
    settings, specials = (
        _read(folder / name) for name in ("tokenizer_config.json", "special_tokens_map.json")
    )
    token = _text(settings.get("eos_token")) or _text(specials.get("eos_token"))
    if token is None:
        return None
    decoder = settings.get("added_tokens_decoder")
    for key, value in decoder.items() if isinstance(decoder, dict) else ():
        if _text(value) == token and key.isdecimal():
            return int(key)
    return _id_in(_read(folder / "tokenizer.json"), token, beside=_read(folder / "vocab.json"))


def _id_in(values: dict[str, Any], token: str, *, beside: dict[str, Any]) -> int | None:
    added = values.get("added_tokens")
    for one in added if isinstance(added, list) else ():
        if isinstance(one, dict) and one.get("content") == token and type(one.get("id")) is int:
            return int(one["id"])
    model = values.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    for held in (vocabulary, beside):
        if isinstance(held, dict) and type(held.get(token)) is int:
            return int(held[token])
    return None


def _text(value: object) -> str | None:
    held = value.get("content") if isinstance(value, dict) else value
    return held if isinstance(held, str) and held else None


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json_object(path) if path.is_file() else {}
    except InputRefused:
        # Said by the audit of the tokenizer.
        return {}
