"""Runs as a person names them: by folder, id or label, each found with the folder that it lies in.

It compares nothing; `compare` does.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tpforge.errors import UsageError
from tpforge.measure.runs.run import RUN_NAME, Run, read_run
from tpforge.outputs.places import OUT
from tpforge.outputs.recognized import what_it_is


@dataclass(frozen=True)
class FoundRun:
    """A run and the folder it lies in."""

    folder: Path
    run: Run


def find_run(given: str, *, root: Path = OUT) -> FoundRun:
    """The run in a folder, or the one of that id under out/NAME/runs/.

    Raises:
        UsageError: there is no such run; those that exist are named.
        InputRefused: its run.json is broken.
    """
    for folder in (Path(given), *sorted(root.glob(f"*/runs/{glob.escape(given)}"))):
        if (folder / RUN_NAME).is_file():
            return FoundRun(folder, read_run(folder))
        if folder.is_file() and folder.name == RUN_NAME:
            return FoundRun(folder.parent, read_run(folder))
    known = sorted(path.parent.name for path in root.glob(f"*/runs/*/{RUN_NAME}"))
    there = f"under {root}/ there are: {', '.join(known)}" if known else f"there are none under {root}/"
    kind = what_it_is(Path(given))
    wrong = f"is {kind}, and no run;" if kind else "no such run;"
    raise UsageError(f"{given}: {wrong} {there}; `tpforge bench` makes one")


def find_runs(given: Sequence[str], *, root: Path = OUT) -> tuple[FoundRun, ...]:
    """Several runs, each another one; those of one id, as of folders of one name, by their folders.

    Raises:
        UsageError: a run is missing, or given twice.
    """
    found = tuple(find_run(name, root=root) for name in given)
    folders = [one.folder.resolve() for one in found]
    if twice := sorted({str(one.folder) for one in found if folders.count(one.folder.resolve()) > 1}):
        raise UsageError(f"{', '.join(twice)}: given more than once; a comparison needs different runs")
    ids = [one.run.id for one in found]
    return tuple(_called_by_folder(one) if ids.count(one.run.id) > 1 else one for one in found)


def _called_by_folder(found: FoundRun) -> FoundRun:
    return replace(found, run=found.run.model_copy(update={"id": str(found.folder)}))


def with_distinct_labels(runs: Sequence[FoundRun]) -> tuple[FoundRun, ...]:
    """The runs, those of one label with their ids in it: two of one engine have its name as label."""
    labels = [one.run.label for one in runs]
    return tuple(
        replace(one, run=one.run.model_copy(update={"label": f"{one.run.label} ({one.run.id})"}))
        if labels.count(one.run.label) > 1
        else one
        for one in runs
    )


def pick_run(runs: Sequence[FoundRun], given: str, *, option: str) -> FoundRun:
    """The one of `runs` with this id, label, engine name or folder.

    Raises:
        UsageError: none or several fit.
    """
    fitting = [
        one
        for one in runs
        if given in (one.run.id, one.run.label, one.run.engine["name"].value) or _is_at(one, given)
    ]
    if len(fitting) == 1:
        return fitting[0]
    known = ", ".join(f"{one.run.id} ({one.run.label})" for one in runs)
    if fitting:
        raise UsageError(f"{option} {given}: fits {len(fitting)} runs; give the id of one: {known}")
    raise UsageError(f"{option} {given}: was not measured: no run has this name; known are: {known}")


def _is_at(found: FoundRun, given: str) -> bool:
    """Whether a path, written in any way, is that of the run's folder or of the run.json in it."""
    return Path(given).resolve() in (found.folder.resolve(), (found.folder / RUN_NAME).resolve())
