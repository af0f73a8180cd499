"""From templates to text: one environment for all pages, in which an undefined name is an error.

Templates extend ``page.html.j2``, which holds the style; nothing on a page points to another address.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from scripts.reports.texts import cell, fenced, shown

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


def _visible(value: object) -> object:
    """A text made harmless; a plot is so already."""
    return shown(value) if type(value) is str else value


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
