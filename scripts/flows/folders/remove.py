"""Removes engines and what was derived from them. It stops no server: an engine that is served is refused."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from engines.store import read_manifest, remove_engine
from scripts.flows.serve import is_running
from tpforge.errors import UsageError
from tpforge.outputs.atomic import remove_output
from tpforge.outputs.places import Places, find_engine


def removable(names: Sequence[str]) -> tuple[Places, ...]:
    """The engines that these names mean.

    Raises:
        InputRefused: one is not there, or is no engine.
        UsageError: the server of one runs.
    """
    found = tuple(find_engine(name) for name in names)
    for places in found:
        read_manifest(places.engine)
        if is_running(places):
            stop = f"tpforge stop {shlex.quote(str(places.engine))}"
            raise UsageError(f"{places.engine}: its server runs; stop it first: {stop}")
    return found


def remove(places: Places) -> tuple[Path, ...]:
    """Remove an engine, its repository and the state of its server; the folders that are gone."""
    gone = [places.engine] if remove_engine(places.engine) else []
    if places.repository.is_dir() and remove_output(places.repository):
        gone.append(places.repository)
    if places.server.is_dir():
        shutil.rmtree(places.server)
        gone.append(places.server)
    places.stages.unlink(missing_ok=True)
    folder = places.engine.parent
    if places.engine.name == "engine" and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    return tuple(gone)
