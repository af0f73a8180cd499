"""A grid of engines and their serving, measured one after another: build, prove, serve, measure, stop.

A point whose run is whole is not measured again, so that a broken-off sweep goes on where it stopped; a point
that fails is recorded, and the others go on. The grid is `tpforge.sweep`'s.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scripts.flows import up
from scripts.flows.bench import Bench, bench
from scripts.flows.benching.plan import BenchOptions
from tpforge.errors import InputRefused, TpforgeError
from tpforge.measure.runs.run import RUN_NAME, Run, read_run
from tpforge.outputs.atomic import os_errors, write_atomic
from tpforge.outputs.places import OUT
from tpforge.progress import Progress
from tpforge.sweep import Point, Sweep

if TYPE_CHECKING:
    from triton_repo.load.measuring import OnProgress


Outcome = Literal["measured", "unchanged", "failed"]


@dataclass(frozen=True)
class Measured:
    """A point as it ended; `found` is its run, `error` why there is none."""

    point: Point
    outcome: Outcome
    found: Bench | None = None
    error: str | None = None


@dataclass(frozen=True)
class Telling:
    """Who is told what is done, what to look at, how a point ended, and how far a measurement is."""

    progress: Progress
    note: Progress
    on_point: Callable[[Measured], None]
    on_progress: OnProgress | None = None


def run_sweep(
    sweep: Sweep, options: BenchOptions, *, command: tuple[str, ...], telling: Telling
) -> list[Measured]:
    """Measure every point that has no whole run yet; the list is written again after each.

    Raises:
        KeyboardInterrupt: it was broken off; the server of the moment is stopped, what was measured is kept.
    """
    done: list[Measured] = []
    for number, point in enumerate(sweep.points, start=1):
        telling.progress(f"point {number}/{len(sweep.points)}: {point.name}")
        measured = _kept(sweep, point, options)
        if measured is None:
            measured = _measure(sweep, point, options, command=command, telling=telling)
        done.append(measured)
        telling.on_point(measured)
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
    sweep: Sweep, point: Point, options: BenchOptions, *, command: tuple[str, ...], telling: Telling
) -> Measured:
    run = up.Run(point.recipe, progress=telling.progress, on_stage=lambda _stage: None)
    try:
        places = run.engine()
        run.use_free_ports()
        url = run.serve(places)
        folder = _folder(sweep, point, options)
        _remove_broken_off(folder)
        asked = replace(options, engine=str(places.engine), label=f"{sweep.name} {point.name}", out=folder)
        found = bench(url, asked, command=command, on_progress=telling.on_progress, note=telling.note)
    except TpforgeError as error:
        return Measured(point, "failed", error=str(error))
    finally:
        run.stop_started()
    if found is None:
        raise KeyboardInterrupt
    if not _was_answered(found.run):
        return Measured(point, "failed", found, f"no request got a whole answer; see {found.folder}")
    return Measured(point, "measured", found)


def _kept(sweep: Sweep, point: Point, options: BenchOptions) -> Measured | None:
    """The point's run, when there is a whole one of the same recipe and the same load that was answered."""
    folder = _folder(sweep, point, options)
    if not (folder / RUN_NAME).is_file():
        return None
    try:
        run = read_run(folder)
    except TpforgeError as error:
        return Measured(point, "failed", error=str(error))
    is_whole = not run.interrupted and _was_answered(run)
    return Measured(point, "unchanged", Bench(folder, run)) if is_whole else None


def _was_answered(run: Run) -> bool:
    return any(level.num_failed < level.num_requests for level in run.levels)


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
    """Move a run that was broken off, or failed, out of the way; its samples stay under another name."""
    if (folder / RUN_NAME).is_file():
        word = "interrupted" if read_run(folder).interrupted else "failed"
        kept = (folder.with_name(f"{folder.name}-{word}-{number}") for number in itertools.count(1))
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
