"""The converted checkpoint beside an engine that is not built yet: what it was made of, whether it holds.

Sizes tell nothing: rank files of two orders, or of another revision of a model, have the same. It converts
nothing; `compile` does.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tpforge import __version__
from tpforge.atomic import hash_file, write_atomic
from tpforge.manifest import FileRecord
from tpforge.written import RECORD_NAME

if TYPE_CHECKING:
    from builders.sources.base import Source
    from scripts.flows.build import Planned


def checkpoint_beside(engine: Path) -> Path:
    """Where the checkpoint of an engine lies until the engine is there."""
    return engine.parent / f".{engine.name}.checkpoint"


def made_of(source: Source, planned: Planned) -> str:
    """What must be equal for a kept checkpoint to be the one that would be written."""
    from builders.convert import conversion_key
    from builders.planning import plan_rank_files

    config = source.family.target_config(planned.plan, dtype=planned.dtype)
    files = plan_rank_files(source, plan=planned.plan, dtype=planned.dtype)
    return f"{__version__} {conversion_key(source, files, plan=planned.plan, config=config)}"


def keep(checkpoint: Path, *, key: str, files: tuple[FileRecord, ...]) -> None:
    """Note what a checkpoint was made of, and the hashes that its conversion gave."""
    value = {"made_of": key, "files": [file.model_dump() for file in files]}
    write_atomic(_note(checkpoint), json.dumps(value, indent=2) + "\n")


def holds(checkpoint: Path, *, key: str) -> bool:
    """Whether a checkpoint of the same making is there, and its files are those that were written."""
    try:
        value = json.loads(_note(checkpoint).read_text(encoding="utf-8"))
        if value["made_of"] != key:
            return False
        files = tuple(FileRecord.model_validate(one) for one in value["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if {file.path for file in files} != {
        path.name for path in checkpoint.glob("*") if path.name != RECORD_NAME
    }:
        return False
    return all(hash_file(checkpoint / file.path, relative_to=checkpoint) == file for file in files)


def discard(checkpoint: Path) -> None:
    """Remove a checkpoint and its note."""
    shutil.rmtree(checkpoint)
    _note(checkpoint).unlink(missing_ok=True)


def _note(checkpoint: Path) -> Path:
    return checkpoint.with_name(f"{checkpoint.name}.json")
