"""The converted checkpoint beside an engine that is not built yet: what it was made of, whether it holds.

Sizes tell nothing: rank files of two orders, or of another revision of a model, have the same. It converts
nothing; the flow that compiles does.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from pydantic import ValidationError

from tpforge.manifest import FileRecord
from tpforge.outputs.atomic import hash_file, write_atomic
from tpforge.outputs.provenance import Provenance, differences
from tpforge.outputs.written import RECORD_NAME
from tpforge.records import Record


class _Note(Record):
    provenance: Provenance
    files: tuple[FileRecord, ...]


def checkpoint_beside(engine: Path) -> Path:
    """Where the checkpoint of an engine lies until the engine is there."""
    return engine.parent / f".{engine.name}.checkpoint"


def keep_checkpoint(checkpoint: Path, *, provenance: Provenance, files: tuple[FileRecord, ...]) -> None:
    """Note what a checkpoint was made of, and the hashes that its conversion gave."""
    value = _Note(provenance=provenance, files=files).model_dump(mode="json")
    write_atomic(_note(checkpoint), json.dumps(value, indent=2) + "\n")


def holds(checkpoint: Path, *, asked: Provenance) -> bool:
    """Whether a checkpoint made of the same is there, and its files are those that were written."""
    try:
        note = _Note.model_validate_json(_note(checkpoint).read_bytes())
    except (OSError, ValidationError):
        return False
    if differences(note.provenance, asked):
        return False
    found = {path.name for path in checkpoint.glob("*")} - {RECORD_NAME}
    if {file.path for file in note.files} != found:
        return False
    return all(hash_file(checkpoint / file.path, relative_to=checkpoint) == file for file in note.files)


def discard_checkpoint(checkpoint: Path) -> None:
    """Remove a checkpoint and its note."""
    shutil.rmtree(checkpoint)
    _note(checkpoint).unlink(missing_ok=True)


def _note(checkpoint: Path) -> Path:
    return checkpoint.with_name(f"{checkpoint.name}.json")
