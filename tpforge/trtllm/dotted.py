"""Arguments of the LLM API by dotted names, as tables and command lines have them, and nested, as YAML has.

It knows no argument; `builders.llm_api.given` flattens what a person gave, by the table of a release.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def nest(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names as nested tables."""
    nested: dict[str, Any] = {}
    for name, value in values.items():
        *tables, last = name.split(".")
        table = nested
        for part in tables:
            table = table.setdefault(part, {})
        table[last] = value
    return nested
