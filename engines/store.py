"""Engine folders on disk: write and read engine.json, check the files, list, remove.

It does not make engines, run them, or say whether their answers are right.
"""

from __future__ import annotations

import json
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pydantic import ValidationError

from tpforge.errors import InputRefused
from tpforge.manifest import FileRecord, Manifest
from tpforge.outputs.atomic import hash_file, os_errors, remove_output, write_into
from tpforge.outputs.places import known_names
from tpforge.outputs.recognized import what_it_is
from tpforge.processors import usable_processors
from tpforge.suggestions import did_you_mean

MANIFEST_NAME = "engine.json"
SCHEMA_VERSION = 1


def write_manifest(engine_dir: Path, manifest: Manifest) -> None:
    """Write engine.json, whole or not at all; equal manifests give equal bytes."""
    write_into(engine_dir, MANIFEST_NAME, manifest.model_dump_json(indent=2) + "\n")


def read_manifest(engine_dir: Path) -> Manifest:
    """The manifest of an engine folder.

    Raises:
        InputRefused: it is no engine folder, or its engine.json is broken or of a newer version.
    """
    path = engine_dir / MANIFEST_NAME
    if not engine_dir.exists():
        hint = did_you_mean(str(engine_dir), known_names())
        raise InputRefused(
            f"{engine_dir}: no such engine folder{f'{hint} Or' if hint else ';'} make one with: "
            "tpforge build MODEL --tp N"
        )
    if not engine_dir.is_dir():
        raise InputRefused(f"{engine_dir}: is a file; expected an engine folder, which holds {MANIFEST_NAME}")
    if not path.is_file():
        raise InputRefused(f"{engine_dir}: {_no_engine(engine_dir)}")
    return _parse(path)


def _no_engine(folder: Path) -> str:
    """What the folder is instead, and what to give or do."""
    kind = what_it_is(folder)
    if kind is None:
        return (
            f"holds no {MANIFEST_NAME}, so it is no engine folder; make one with: tpforge build MODEL --tp N"
        )
    beside = folder.parent / "engine"
    if (beside / MANIFEST_NAME).is_file():
        return f"is {kind}; expected an engine folder, such as {beside}"
    model = shlex.quote(str(folder)) if kind == "a Hugging Face checkpoint" else "MODEL"
    return f"is {kind}, and no engine folder; make one with: tpforge build {model} --tp N"


def _parse(path: Path) -> Manifest:
    with os_errors(path):
        data = path.read_bytes()
    try:
        value = json.loads(data)
    except ValueError as error:
        raise InputRefused(f"{path}: not valid JSON ({error}); build the engine again") from error
    version = value.get("schema_version") if isinstance(value, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise InputRefused(
            f"{path}: schema version {version} is newer than this tpforge, which reads {SCHEMA_VERSION}; "
            "use the tpforge that made it, or a newer one"
        )
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in problem['loc']) or 'engine.json'}: {problem['msg']}"
            for problem in error.errors()
        ]
        raise InputRefused.listing(f"{path}: not an engine's manifest; build it again:", problems) from error


def check_files(engine_dir: Path, manifest: Manifest) -> list[str]:
    """What is wrong with the files that the manifest lists: missing, or another size or SHA-256; sorted.

    Files are hashed side by side, as many as this process has processors: hashlib holds no other thread up.
    """
    large_first = sorted(manifest.files, key=lambda record: record.size, reverse=True)
    with ThreadPoolExecutor(usable_processors()) as pool:
        found = pool.map(lambda record: _problem(engine_dir, record), large_first)
        return sorted(problem for problem in found if problem is not None)


def _problem(engine_dir: Path, record: FileRecord) -> str | None:
    """What is wrong with one file."""
    path = engine_dir / record.path
    if not path.is_file():
        return f"{record.path}: missing"
    if (size := path.stat().st_size) != record.size:
        return f"{record.path}: {size} bytes, engine.json says {record.size}"
    if (sha256 := hash_file(path, relative_to=engine_dir).sha256) != record.sha256:
        return f"{record.path}: SHA-256 {sha256}, engine.json says {record.sha256}"
    return None


def list_engines(root: Path) -> list[tuple[Path, Manifest]]:
    """The engine folders `root`/NAME/engine with their manifests, by name.

    Raises:
        InputRefused: an engine.json is broken.
    """
    found = sorted(root.glob(f"*/engine/{MANIFEST_NAME}"))
    return [(path.parent, read_manifest(path.parent)) for path in found]


def remove_engine(engine_dir: Path) -> bool:
    """Remove an engine and, where nothing else lies in it, its folder; whether the folder is gone.

    A killed removal leaves no engine that looks whole.

    Raises:
        InputRefused: it is no engine folder.
    """
    if not (engine_dir / MANIFEST_NAME).is_file():
        read_manifest(engine_dir)
    return remove_output(engine_dir, first=MANIFEST_NAME)
