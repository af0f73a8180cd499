"""Values as YAML text that people can read: keys in our order, long texts as blocks, no anchors.

It knows nothing of what the values mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):  # type: ignore[misc,unused-ignore]
    """Writes texts of several lines as blocks, indents lists, and repeats instead of naming."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: Any, value: str) -> Any:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(value: Any, *, comment: str = "") -> str:
    """One document, under a comment."""
    head = "".join(f"# {line}".rstrip() + "\n" for line in comment.splitlines())
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=100, default_flow_style=False)
    return head + str(text)


def to_documents(values: Sequence[Any], *, comment: str = "") -> str:
    """Several documents in one file."""
    return "---\n".join([to_yaml(values[0], comment=comment), *(to_yaml(value) for value in values[1:])])
