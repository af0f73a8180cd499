"""Blocks of pages: what stands between the two comments of a measurement, and how an output becomes one.

It writes no file.
"""

from __future__ import annotations

import re

from scripts.dev.measure.measurements import Measurement

_OPENING = re.compile(r"<!-- make measure: ([a-z-]+) -->")
_BLOCK = re.compile(r"<!-- make measure: ([a-z-]+) -->\n.*?<!-- end of \1 -->\n", re.DOTALL)


def block(measurement: Measurement, output: str, *, footer: str) -> str:
    """What a page shows of a measurement.

    Raises:
        ValueError: it printed nothing of that kind.
    """
    if measurement.shown == "output":
        return f"```\n{output.strip()}\n```\n\n{footer}\n"
    tables = [line for line in output.splitlines() if line.startswith("|")]
    if not tables:
        raise ValueError(f"{measurement.name}: printed no table: {output[:200]!r}")
    shown = output.strip() if measurement.shown == "text" else "\n".join(tables)
    return f"{shown}\n\n{footer}\n"


def with_block(page: str, name: str, body: str) -> str:
    """The page with another content of a block.

    Raises:
        ValueError: it has no such block, or several.
    """
    parts = page.split(opening(name))
    if len(parts) != 2 or closing(name) not in parts[1]:
        raise ValueError(
            f"found {len(parts) - 1} blocks of {name}, expected one that ends with {closing(name)}"
        )
    rest = parts[1].split(closing(name), 1)[1]
    return f"{parts[0]}{opening(name)}\n{body}{closing(name)}{rest}"


def without_blocks(page: str) -> str:
    """What stands outside of every block."""
    return _BLOCK.sub("", page)


def opening(name: str) -> str:
    """The comment before a block."""
    return f"<!-- make measure: {name} -->"


def closing(name: str) -> str:
    """The comment behind a block."""
    return f"<!-- end of {name} -->"


def names_in(page: str) -> list[str]:
    """The blocks of a page, in their order."""
    return _OPENING.findall(page)
