"""What is said of a command line that is wrong, in words of people. It parses nothing; click does."""

from __future__ import annotations

import re
from collections.abc import Iterable

import click

from tpforge.suggestions import did_you_mean

_QUOTED = r"'([^']*)'"
_RANGES = {
    "integer range": "whole number",
    "float range": "number",
    "integer": "whole number",
    "float": "number",
}


def usage_text(error: click.UsageError) -> str:
    """Click's sentence, with numbers named as people name them, and one way to say what is near.

    ``'x' is not a whole number``, ``no such option --a; did you mean --b?``.
    """
    text = re.sub(
        r"is not a valid (integer range|float range|integer|float)\b",
        lambda found: f"is not a {_RANGES[found[1]]}",
        error.format_message(),
    )
    said = re.search(r"\.? \(?Did you mean (?:one of: )?(.+?)\?\)?$", text)
    if said:
        return f"{text[: said.start()]}; did you mean {' or '.join(re.findall(_QUOTED, said[1]))}?"
    choice = re.search(rf"{_QUOTED} is not one of (.+)\.$", text)
    if choice:
        return f"{text[:-1]}{did_you_mean(choice[1], re.findall(_QUOTED, choice[2])) or '.'}"
    return text


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest known ones, or a full stop."""
    return did_you_mean(name, known) or "."
