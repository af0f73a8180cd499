"""What is said of a command line that is wrong, in words of people. It parses nothing; click does."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

import click

_RANGES = {
    "integer range": "whole number",
    "float range": "number",
    "integer": "whole number",
    "float": "number",
}


def usage_text(error: click.UsageError) -> str:
    """Click's sentence, with numbers named as people name them: ``'x' is not a whole number``."""
    return re.sub(
        r"is not a valid (integer range|float range|integer|float)\b",
        lambda found: f"is not a {_RANGES[found[1]]}",
        error.format_message(),
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest known ones, or a full stop."""
    near = get_close_matches(name.lower(), list(known), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else "."
