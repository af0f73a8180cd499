"""Colours of what is printed on a terminal: the words that judge, at the beginning of a line.

It knows no command. NO_COLOR (no-color.org) and TERM=dumb turn it off; what is piped is never coloured.
"""

from __future__ import annotations

import os
import re
from typing import TextIO

_RED, _GREEN, _YELLOW, _END = "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"
_COLOUR_OF = {
    "ok": _GREEN,
    "PASS": _GREEN,
    "missing": _RED,
    "wrong": _RED,
    "FAIL": _RED,
    "error:": _RED,
    "internal error:": _RED,
    "warning": _YELLOW,
    "warning:": _YELLOW,
    "SKIP": _YELLOW,
}
_WORD = re.compile(
    rf"^({'|'.join(map(re.escape, sorted(_COLOUR_OF, key=len, reverse=True)))})(?=\s)", re.MULTILINE
)


def coloured(text: str, *, stream: TextIO) -> str:
    """Text that was made printable already, with colours where `stream` is a terminal that wants them."""
    if not wants_colours(stream):
        return text
    return _WORD.sub(lambda found: f"{_COLOUR_OF[found[1]]}{found[1]}{_END}", text)


def wants_colours(stream: TextIO) -> bool:
    """Whether a stream is a terminal that shows colours to a person who wants them."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
