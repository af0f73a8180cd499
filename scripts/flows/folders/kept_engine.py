"""Whether the engine that is there is the one that would be built now, of any runtime.

It decides nothing: a build keeps it, refuses or replaces it.
"""

from __future__ import annotations

from engines.store import MANIFEST_NAME, check_files, read_manifest
from tpforge.manifest import Manifest
from tpforge.outputs.places import Places
from tpforge.outputs.provenance import differences, engine_provenance


def find_kept(places: Places) -> Manifest | None:
    """The manifest of the engine that is there, if there is one.

    Raises:
        InputRefused: its engine.json is broken.
    """
    return read_manifest(places.engine) if (places.engine / MANIFEST_NAME).is_file() else None


def kept_differences(places: Places, kept: Manifest, *, asked: Manifest) -> list[str]:
    """In what it is not what is asked for; its files are read only when all else is equal."""
    return differences(engine_provenance(kept), engine_provenance(asked)) or check_files(places.engine, kept)
