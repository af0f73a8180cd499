"""Texts of strangers made harmless on a page: labels of runs, answers of models, names of files.

It does not judge what a text says. What a browser or a terminal would obey is shown, links and pictures of
Markdown are text, and a home directory is not named.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

from tpforge.printable import printable

# What follows decides: a bracket ends a link before these alone, a backslash escapes punctuation alone.
_LINK = re.compile(r"\](?=[(\[:])")
_ESCAPE = re.compile(r"\\(?=[!-/:-@\[-`{-~]|$)")


def shown(text: str) -> str:
    """The text without characters that a page may not hold or that a reader would not see.

    Paths below the home directory begin with ``~``: whose home it is, is nobody's business.
    """
    home = str(Path.home())
    return printable(text.replace(f"{home}/", "~/") if home != "/" else text)


def escaped(text: str) -> str:
    """The same as a text or an attribute of HTML or SVG."""
    return escape(shown(text))


def cell(value: object) -> str:
    """A text inside a Markdown table or list: one line, no bar that would end the cell, no HTML, no link."""
    text = _ESCAPE.sub(r"\\\\", shown(" ".join(str(value).split())))
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
    return _LINK.sub(r"\\]", text)


def fenced(text: str) -> str:
    """A text in a Markdown fence that is longer than any run of backquotes in it."""
    longest = max((len(run) for run in "".join(c if c == "`" else " " for c in text).split()), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"
