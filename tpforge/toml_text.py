"""TOML that people write, read within bounds: what would keep the parser busy for minutes is refused.

It does not know what the values mean. Our own tables are read by tomllib as they are.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any

MAX_CHARACTERS, MAX_KEY_PARTS = 1 << 20, 64
# tomllib's time grows with the square of a key's parts. No match begins within a word, or time grew here so.
_PART = r"""(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+"""
_LONG_KEY = re.compile(rf"""(?<![\w"'-])(?:{_PART}\.[ \t]*+){{{MAX_KEY_PARTS}}}""")


def parse_toml(text: str) -> dict[str, Any]:
    """The table in a text.

    Raises:
        tomllib.TOMLDecodeError: it is no TOML, or larger or deeper than any that people write.
    """
    if len(text) > MAX_CHARACTERS:
        raise tomllib.TOMLDecodeError(f"found {len(text)} characters, expected at most {MAX_CHARACTERS}")
    if found := _LONG_KEY.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise tomllib.TOMLDecodeError(f"a key of more than {MAX_KEY_PARTS} parts (at line {line})")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except ValueError as error:
        # Numbers of thousands of digits, and times that are none, are this to Python.
        raise tomllib.TOMLDecodeError(str(error)) from error
