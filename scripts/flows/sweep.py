"""A grid of engines and their serving, measured one after another: build, prove, serve, measure, stop.

The grid is the table ``[sweep]`` of a recipe. A point whose run is whole is not measured again, so that a
broken-off sweep goes on where it stopped; a point that fails is recorded, and the others go on.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scripts.flows import up
from scripts.flows.bench import Bench, bench
from scripts.flows.bench_plan import BenchOptions
from tpforge.atomic import os_errors, write_atomic
from tpforge.errors import InputRefused, TpforgeError, UsageError
from tpforge.measure.run import RUN_NAME, read_run
from tpforge.places import OUT
from tpforge.recipe import Recipe, recipe_of

if TYPE_CHECKING:
    from triton_repo.load.measuring import OnProgress

SWEEP_NAME = "sweep.json"
_SERVING = ("repository", "serve", "smoke")
"""Tables of a recipe that make no other engine."""

Outcome = Literal["measured", "unchanged", "failed"]


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
class Measured:
    """A point as it ended; `found` is its run, `error` why there is none."""

    point: Point
    outcome: Outcome
    found: Bench | None = None
    error: str | None = None


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
        raise UsageError(f"{path}: no such recipe")
    with os_errors(path):
        text = path.read_text("utf-8", errors="replace")
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from error
    grid = dict(_grid(value.pop("sweep", None), path=path))
    name = value.get("name") or f"{path.stem}-sweep"
    points = []
    for choice in itertools.product(*grid.values()):
        values = dict(zip(grid, choice, strict=True))
        points.append(Point(values, _recipe(value, values, name=str(name), path=path)))
    return Sweep(str(name), tuple(points))


def run_sweep(
    sweep: Sweep,
    options: BenchOptions,
    *,
    command: tuple[str, ...],
    progress: Callable[[str], None],
    on_progress: OnProgress | None = None,
    note: Callable[[str], None],
    on_point: Callable[[Measured], None],
) -> list[Measured]:
    """Measure every point that has no whole run yet; the list is written again after each.

    Raises:
        KeyboardInterrupt: it was broken off; the server of the moment is stopped, what was measured is kept.
    """
    done: list[Measured] = []
    for number, point in enumerate(sweep.points, start=1):
        progress(f"point {number}/{len(sweep.points)}: {point.name}")
        measured = _kept(sweep, point, options)
        if measured is None:
            measured = _measure(sweep, point, options, command, progress, on_progress, note)
        done.append(measured)
        on_point(measured)
        _write_summary(sweep, done)
        if measured.found is not None and measured.found.run.interrupted:
            raise KeyboardInterrupt
    return done


def refuse_failed(done: list[Measured]) -> None:
    """Raise when a point failed.

    Raises:
        InputRefused: names every such point with its reason.
    """
    if failed := [f"{item.point.name}: {item.error}" for item in done if item.outcome == "failed"]:
        raise InputRefused.listing(f"{len(failed)} of {len(done)} points failed:", failed)


def _measure(
    sweep: Sweep,
    point: Point,
    options: BenchOptions,
    command: tuple[str, ...],
    progress: Callable[[str], None],
    on_progress: OnProgress | None,
    note: Callable[[str], None],
) -> Measured:
    run = up.Run(point.recipe, progress=progress, on_stage=lambda _stage: None)
    try:
        places = run.engine()
        run.use_free_ports()
        url = run.serve(places)
        folder = _folder(sweep, point, options)
        _remove_broken_off(folder)
        asked = replace(options, engine=str(places.engine), label=f"{sweep.name} {point.name}", out=folder)
        found = bench(url, asked, command=command, on_progress=on_progress, note=note)
    except TpforgeError as error:
        return Measured(point, "failed", error=str(error))
    finally:
        run.stop_started()
    if found is None:
        raise KeyboardInterrupt
    failed = all(level.num_failed == level.num_requests for level in found.run.levels)
    if failed:
        return Measured(point, "failed", found, f"no request got a whole answer; see {found.folder}")
    return Measured(point, "measured", found)


def _kept(sweep: Sweep, point: Point, options: BenchOptions) -> Measured | None:
    """The point's run, when there is a whole one of the same recipe and the same load."""
    folder = _folder(sweep, point, options)
    if not (folder / RUN_NAME).is_file():
        return None
    run = read_run(folder)
    return None if run.interrupted else Measured(point, "unchanged", Bench(folder, run))


def _folder(sweep: Sweep, point: Point, options: BenchOptions) -> Path:
    """Where the point's run lies: its name carries a hash of all that it is made by."""
    ignored = {"out": None, "label": None, "engine": None, "headers": None, "tls": None}
    made_by = [
        point.recipe.model_dump(mode="json", exclude_defaults=True),
        asdict(replace(options, tls=None)) | ignored,
    ]
    digest = hashlib.sha256(json.dumps(made_by, sort_keys=True, default=str).encode()).hexdigest()
    return OUT / sweep.name / "runs" / f"{point.name}-{digest[:8]}"


def _remove_broken_off(folder: Path) -> None:
    """Move a broken-off run out of the way; its samples stay readable under another name."""
    if (folder / RUN_NAME).is_file():
        kept = (folder.with_name(f"{folder.name}-interrupted-{number}") for number in itertools.count(1))
        with os_errors(folder):
            folder.rename(next(path for path in kept if not path.exists()))


def _write_summary(sweep: Sweep, done: list[Measured]) -> None:
    value = {
        "schema_version": 1,
        "kind": "sweep",
        "name": sweep.name,
        "num_points": len(sweep.points),
        "points": [point_record(item) for item in done],
    }
    with os_errors(sweep.summary):
        sweep.summary.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(sweep.summary, json.dumps(value, indent=2) + "\n")


def point_record(item: Measured) -> dict[str, Any]:
    """A point for sweep.json and for --json."""
    return {
        "name": item.point.name,
        "values": item.point.values,
        "outcome": item.outcome,
        "run": str(item.found.folder) if item.found else None,
        "error": item.error,
    }


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
        place[last] = value
    own = {key: value for key, value in values.items() if key.split(".")[0] not in _SERVING}
    merged["name"] = f"{name}-{_slug(own)}" if own else name
    return recipe_of(merged, path=path)


def _slug(values: dict[str, Any]) -> str:
    parts = (f"{key.split('.')[-1]}-{value}" for key, value in values.items())
    return re.sub(r"[^\w.-]+", "-", "_".join(parts)) or "point"
