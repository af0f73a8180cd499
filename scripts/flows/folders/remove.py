"""Removes an engine and what was derived from it. It does not stop a server; the command refuses then."""

from __future__ import annotations

import shutil
from pathlib import Path

from engines.store import remove_engine
from tpforge.outputs.atomic import remove_output
from tpforge.outputs.places import Places


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
