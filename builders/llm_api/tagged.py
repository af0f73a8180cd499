"""Arguments of the LLM API that belong to one value of their table's tag, such as one way to guess ahead.

Which belong to which is the table's own; every other relation is `builders.llm_api.arguments`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tpforge.trtllm.arguments import Argument, ArgumentTable

_MAY_BE_LEFT_OUT = ("cuda_graph_config", "cp_config")
"""Tables whose tag has a default, or is inferred by upstream from the keys that are given."""


def tag_problems(given: Mapping[str, Any], table: ArgumentTable) -> Iterator[str]:
    """What is given for another tag than the one that is given, tags that are missing, and what they need."""
    rows = {one.name: one for one in table.arguments}
    for prefix in sorted({_table_of(name) for name in given}):
        own = {name: value for name, value in given.items() if _table_of(name) == prefix}
        tag = table.tags.get(prefix)
        value = given.get(f"{prefix}.{tag}") if tag else None
        if tag and value is None and f"{prefix}.{tag}" in rows and prefix not in _MAY_BE_LEFT_OUT:
            yield f"{prefix}.{tag}: missing"
            continue
        if tag and value is not None:
            yield from _foreign(own, rows, tag=tag, value=str(value))
        if prefix:
            yield from _missing(prefix, own, rows, value=value)


def _foreign(own: Mapping[str, Any], rows: Mapping[str, Argument], *, tag: str, value: str) -> Iterator[str]:
    for name in own:
        only = rows[name].only if name in rows else ()
        if only and value not in only:
            yield f"{name}: is not a field of {tag} {value}; it belongs to {', '.join(only)}"


def _missing(
    prefix: str, own: Mapping[str, Any], rows: Mapping[str, Argument], *, value: Any
) -> Iterator[str]:
    for row in rows.values():
        is_of_it = _table_of(row.name) == prefix and (not row.only or value in row.only)
        if row.required and is_of_it and row.name not in own:
            yield f"{row.name}: missing; {prefix}{f' {value}' if row.only else ''} needs it"


def _table_of(name: str) -> str:
    """The outermost table of a dotted name; empty for an argument of the top level."""
    return name.partition(".")[0] if "." in name else ""
