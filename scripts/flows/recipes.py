"""Reads recipe.toml from disk; what it means is `tpforge.recipe`."""

from __future__ import annotations

from pathlib import Path

from tpforge.atomic import os_errors
from tpforge.errors import UsageError
from tpforge.recipe import Recipe, parse_recipe


def read_recipe(path: Path) -> Recipe:
    """The recipe in a file.

    Raises:
        UsageError: there is no such file, it is not UTF-8 text, or the recipe is wrong.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such recipe; see docs/recipe.md for one")
    with os_errors(path):
        data = path.read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text; a recipe is TOML") from error
    return parse_recipe(text, path=path)
