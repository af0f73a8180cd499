"""From templates to text: one environment for all pages, in which an undefined name is an error.

Templates extend `page.html.j2`, which holds the style; nothing on a page points to another address.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

TEMPLATES = Path(__file__).with_name("templates")


def render_html(template: str, values: Mapping[str, Any]) -> str:
    """A page from `templates/`; values are escaped, but for `Markup`, as `inline` makes."""
    return _environment(autoescape=True).get_template(template).render(values)


def render_markdown(template: str, values: Mapping[str, Any]) -> str:
    """A Markdown text from `templates/`; use the filter `cell` for what stands in a table."""
    text = _environment(autoescape=False).get_template(template).render(values)
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def inline(svg: str) -> Markup:
    """A plot by `svg` as a part of a page; its texts are escaped already."""
    return Markup(svg)


def cell(value: object) -> str:
    """A text inside a Markdown table or list: one line, no bar that would end the cell, no HTML."""
    text = " ".join(str(value).split())
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def fenced(text: str) -> str:
    """A text in a Markdown fence that is longer than any run of backquotes in it."""
    longest = max((len(run) for run in "".join(c if c == "`" else " " for c in text).split()), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"


def _visible(value: object) -> object:
    """A text as a page may show it: without characters that none may hold, which a model may answer with.

    Paths below the home directory begin with ``~``: whose home it is, is nobody's business.
    """
    if type(value) is not str:
        return value
    home = str(Path.home())
    text = value.replace(f"{home}/", "~/") if home != "/" else value
    return text.translate(_CONTROL)


_CONTROL = dict.fromkeys([*range(9), 11, 12, *range(14, 32), 127, *range(0xD800, 0xE000)], "\ufffd")


@cache
def _environment(*, autoescape: bool) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        finalize=_visible,
        autoescape=autoescape,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = cell
    environment.filters["fenced"] = fenced
    return environment
