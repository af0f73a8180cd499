"""Whether an output is still that of its inputs: a key of the inputs is kept beside it.

It only compares; a step that finds its key unchanged decides itself to skip.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from tpforge.atomic import exclusive, write_atomic
from tpforge.manifest import Manifest
from tpforge.places import Places


def engine_key(manifest: Manifest) -> str:
    """A key of all that an engine is made of, without what was proven of it."""
    unproven = {"parity": None, "quality": None, "golden": ()}
    return text_key([manifest.model_copy(update=unproven).model_dump_json()])


def source_key(folders: Iterable[Path]) -> str:
    """A key of the code and templates in folders of ours, so that a change of them is noticed."""
    parts = []
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                parts += [path.relative_to(folder).as_posix(), path.read_text(encoding="utf-8")]
    return text_key(parts)


def text_key(parts: Iterable[str]) -> str:
    """SHA-256 over parts whose ends are told apart."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8")
        digest.update(str(len(data)).encode() + b":" + data)
    return digest.hexdigest()


def read_stages(places: Places) -> dict[str, dict[str, object]]:
    """What was kept for each step; empty when there is nothing or it cannot be read."""
    try:
        value = json.loads(places.stages.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def keep_stage(places: Places, step: str, fields: Mapping[str, object]) -> None:
    """Keep what a step was made of."""
    with exclusive(places.stages):
        stages = {**read_stages(places), step: dict(fields)}
        write_atomic(places.stages, json.dumps(stages, indent=2, sort_keys=True) + "\n")
