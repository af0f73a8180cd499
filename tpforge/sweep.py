"""A grid of engines and their serving, declared: the table ``[sweep]`` of a recipe, a recipe a point.

It measures nothing.
"""

from __future__ import annotations

import copy
import itertools
import math
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tpforge.errors import UsageError
from tpforge.outputs.atomic import os_errors
from tpforge.outputs.places import OUT
from tpforge.recipe import Recipe, no_recipe, recipe_of
from tpforge.toml_text import parse_toml

SWEEP_NAME = "sweep.json"
MAX_POINTS = 1000
"""Each is built, served and measured: more than anyone waits for."""
_SERVING = ("repository", "serve", "smoke")
"""Tables of a recipe that make no other engine."""


@dataclass(frozen=True)
class Point:
    """One recipe of the grid, and the values that set it apart."""

    values: dict[str, Any]
    recipe: Recipe

    @property
    def name(self) -> str:
        """``tp-2_max_batch_size-8``."""
        return _slug(self.values)


@dataclass(frozen=True)
class Sweep:
    """A grid with its name."""

    name: str
    points: tuple[Point, ...]

    @property
    def summary(self) -> Path:
        """The file that lists the points and their runs."""
        return OUT / self.name / SWEEP_NAME


def read_sweep(path: Path) -> Sweep:
    """The grid in a recipe: every combination of the lists of its table ``[sweep]``, the last key fastest.

    Raises:
        UsageError: no such file, not TOML, no grid, or a recipe of the grid is wrong.
    """
    if not path.is_file():
        raise UsageError(f"{path}: {no_recipe(path)}")
    with os_errors(path):
        text = path.read_text("utf-8", errors="replace")
    try:
        value = parse_toml(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from error
    grid = dict(_grid(value.pop("sweep", None), path=path))
    name = value.get("name") or f"{path.stem}-sweep"
    num_points = math.prod(map(len, grid.values()))
    if num_points > MAX_POINTS:
        raise UsageError(f"{path}: [sweep] has {num_points} points, expected at most {MAX_POINTS}")
    points = []
    for choice in itertools.product(*grid.values()):
        values = dict(zip(grid, choice, strict=True))
        points.append(Point(values, _recipe(value, values, name=str(name), path=path)))
    return Sweep(str(name), tuple(points))


def _grid(table: Any, *, path: Path) -> Iterator[tuple[str, list[Any]]]:
    if not isinstance(table, dict) or not table:
        raise UsageError(f"{path}: has no table [sweep] with lists of values, such as tp = [1, 2, 4]")
    for key, values in _flat(table):
        if not isinstance(values, list) or not values:
            raise UsageError(f"{path}: sweep.{key}: expected a list of values, found {values!r}")
        yield key, values


def _flat(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """``{"limits": {"a": [1]}}`` and ``{"limits.a": [1]}`` alike as ``limits.a``."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _recipe(base: dict[str, Any], values: dict[str, Any], *, name: str, path: Path) -> Recipe:
    """The base with the point's values, under a name that points of the same engine share."""
    merged = copy.deepcopy(base)
    for key, value in values.items():
        *tables, last = key.split(".")
        place = merged
        for table in tables:
            place = place.setdefault(table, {})
            if not isinstance(place, dict):
                raise UsageError(f"{path}: sweep.{key}: {table} is {place!r} in the recipe, expected a table")
        place[last] = value
    own = {key: value for key, value in values.items() if key.split(".")[0] not in _SERVING}
    merged["name"] = f"{name}-{_slug(own)}" if own else name
    return recipe_of(merged, path=path)


def _slug(values: dict[str, Any]) -> str:
    parts = (f"{key.split('.')[-1]}-{value}" for key, value in values.items())
    return re.sub(r"[^\w.-]+", "-", "_".join(parts)) or "point"
