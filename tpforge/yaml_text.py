"""Values as YAML text that people can read: keys in our order, long texts as blocks, no anchors.

It is the only writer of YAML, and the only module of the core that imports PyYAML. It knows nothing of what
the values mean. Readers of YAML 1.1 (PyYAML) and of 1.2 (Go: kubectl, Helm) read alike what it writes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from tpforge.errors import InputRefused

MAX_VALUES = 1_000_000
"""A few lines of aliases can stand for more values than any memory holds."""

# Strings to PyYAML, and to others not: 1e5 and 0o17 (YAML 1.2 and Go), y and n (YAML 1.1 to the letter).
_READ_DIFFERENTLY = re.compile(
    r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(e[-+]?\d+)?|[-+]?0[xob][\da-f_]+|[yn]", re.IGNORECASE
)
# Line breaks to YAML 1.1, which only double quotes keep.
_ESCAPED = re.compile("[\\r\\x85\\u2028\\u2029]")


class _Dumper(yaml.SafeDumper):  # type: ignore[misc,unused-ignore]
    """Writes texts of several lines as blocks, indents lists, and repeats instead of naming."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: Any, value: str) -> Any:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=_style(value))


def _style(text: str) -> str | None:
    """Block, single quotes, double quotes, or what PyYAML chooses."""
    if _ESCAPED.search(text):
        return '"'
    if "\n" in text:
        return "|"
    return "'" if _READ_DIFFERENTLY.fullmatch(text) else None


_Dumper.add_representer(str, _text)


def to_yaml(value: Any, *, comment: str = "") -> str:
    """One document, under a comment."""
    head = "".join(f"# {_printable(line)}".rstrip() + "\n" for line in comment.splitlines())
    text = yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, width=100, default_flow_style=False, allow_unicode=True
    )
    return head + str(text)


def parse_table(text: str, *, where: Path) -> dict[str, Any]:
    """The values of a file that holds one table.

    Raises:
        InputRefused: it is no YAML, or no table with names as keys.
    """
    try:
        value = _load(text)
    except (yaml.YAMLError, ValueError) as error:
        # Numbers of thousands of digits, and dates that are none, are a ValueError to PyYAML.
        raise InputRefused(f"{where}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise InputRefused(f"{where}: expected a table with names as keys, found {type(value).__name__}")
    return value


def _load(text: str) -> Any:
    """The value of a document.

    Raises:
        yaml.YAMLError: it is none, or its aliases stand for too many values, or for themselves.
        ValueError: a number or a date that Python has not.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _num_values(node, {}) > MAX_VALUES:
            raise yaml.YAMLError(f"its aliases stand for more than {MAX_VALUES} values, or for themselves")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _num_values(node: Any, known: dict[int, float]) -> float:
    """The values below a node when every alias is written out; infinite when it holds itself."""
    if id(node) not in known:
        known[id(node)] = math.inf
        below = (
            [one for pair in node.value for one in pair]
            if isinstance(node, yaml.MappingNode)
            else (node.value if isinstance(node, yaml.SequenceNode) else [])
        )
        known[id(node)] = 1 + sum(_num_values(one, known) for one in below)
    return known[id(node)]


def leading_comment(text: str) -> str:
    """The comment above the first value, without its signs."""
    lines = takewhile(lambda line: line.startswith("#"), text.splitlines())
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines)


def _printable(line: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in line)


def to_documents(values: Sequence[Any], *, comment: str = "") -> str:
    """Several documents in one file."""
    return "---\n".join([to_yaml(values[0], comment=comment), *(to_yaml(value) for value in values[1:])])
