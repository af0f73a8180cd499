"""Reads JSON that others wrote: every failure names the file, and a key given twice is refused.

It does not know what the keys mean.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from builders.sources.base import read_bytes
from tpforge.errors import InputRefused


def parse_json_object(text: bytes, *, where: str) -> dict[str, Any]:
    """The object that `text` holds.

    Raises:
        InputRefused: not UTF-8 JSON, not an object, or a key given twice.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            twice = sorted(key for key, count in counts.items() if count > 1)
            raise InputRefused(f"{where}: given twice: {', '.join(twice[:5])}; each key may be given once")
        return values

    try:
        content = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise InputRefused(f"{where}: not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputRefused(f"{where}: found a JSON {type(content).__name__}, expected an object")
    return content


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a file; see `parse_json_object`."""
    return parse_json_object(read_bytes(path), where=str(path))
