"""Known causes of failures by the lines they leave in a log, from causes.toml.

It only recognizes: who runs the program decides what to do with the answer.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib.resources import files

from tpforge.records import Record


class Cause(Record):
    """A cause of a failure; `pattern` is searched in every line of a log."""

    name: str
    pattern: str
    meaning: str
    remedy: str
    source: str


@cache
def causes() -> tuple[Cause, ...]:
    """All known causes, the most telling first."""
    text = files("tpforge.trtllm").joinpath("causes.toml").read_text(encoding="utf-8")
    return tuple(Cause.model_validate(row) for row in tomllib.loads(text)["cause"])


def find_causes(lines: Iterable[str]) -> list[tuple[Cause, str]]:
    """The causes that show in a log, in the table's order, each with the first line that shows it."""
    found: dict[str, str] = {}
    for line in lines:
        for cause in causes():
            if cause.name not in found and re.search(cause.pattern, line):
                found[cause.name] = line.strip()
    return [(cause, found[cause.name]) for cause in causes() if cause.name in found]


def explain(lines: Iterable[str]) -> list[str]:
    """What a log says of a failure: a line a cause, with the remedy."""
    return [
        f"{cause.name}: {cause.meaning}; try {cause.remedy} ({line[:160]})"
        for cause, line in find_causes(lines)
    ]
