"""Reads JSON that others wrote: every failure names the file, and a key given twice is refused.

It does not know what the keys mean.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from builders.sources.input_file import read_bytes
from builders.sources.uncollected import uncollected
from tpforge.errors import InputRefused

MAX_DEPTH = 64
"""Levels of nesting; a model's files have fewer than ten, and Python's own limit depends on the caller."""


def parse_json_object(text: bytes, *, where: str) -> dict[str, Any]:
    """The object that `text` holds.

    Raises:
        InputRefused: not UTF-8 JSON, not an object, a key given twice, or nested beyond MAX_DEPTH.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            twice = sorted(key for key, count in counts.items() if count > 1)
            raise InputRefused(f"{where}: given twice: {', '.join(twice[:5])}; each key may be given once")
        return values

    try:
        with uncollected():
            content = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise InputRefused(f"{where}: not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputRefused(f"{where}: found a JSON {type(content).__name__}, expected an object")
    if _is_too_deep(content):
        raise InputRefused(f"{where}: found JSON nested deeper than {MAX_DEPTH} levels")
    if b"\\ud" in text.lower() and not _is_unicode(content):
        raise InputRefused(f"{where}: not valid JSON: half a surrogate pair, which is no character")
    return content


def shown(value: object) -> str:
    """A value of a file as an error shows it: cut when it is long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _is_too_deep(content: dict[str, Any]) -> bool:
    level: list[Any] = [content]
    for _ in range(MAX_DEPTH):
        level = [one for held in level for one in _members(held) if isinstance(one, dict | list)]
        if not level:
            return False
    return True


def _members(held: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return held.values() if isinstance(held, dict) else held


def _is_unicode(content: dict[str, Any]) -> bool:
    try:
        json.dumps(content, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a file; see `parse_json_object`."""
    return parse_json_object(read_bytes(path), where=str(path))
