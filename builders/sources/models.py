"""Models as commands name them: a directory, a hub id with @revision, a .gguf file, or `demo`.

It converts nothing; `builders.conversion.convert` goes on from an open source.
"""

from __future__ import annotations

from pathlib import Path

from builders.sources import Source, open_source
from tpforge.manifest import FileRecord, SourceRecord
from tpforge.outputs.atomic import hash_file
from tpforge.outputs.places import DEMO_MODEL, cache_dir


def open_model(location: str) -> Source:
    """The source at a directory, hub id (with @revision), .gguf file, or `demo`.

    Raises:
        InputRefused: it is none of these, or not sound.
    """
    bare, revision = model_location(location)
    return open_source(bare, revision=revision)


def model_location(location: str) -> tuple[str, str | None]:
    """Where `location` points: `demo` becomes the file, and a hub id is parted from its revision."""
    if location == DEMO_MODEL and not Path(location).exists():
        location = str(demo_model())
    if Path(location).exists() or "@" not in location:
        return location, None
    bare, revision = location.rsplit("@", 1)
    return bare, revision


def demo_model(cache: Path | None = None) -> Path:
    """The demo model's .gguf, fetched on first use."""
    from builders.demo import fetch_demo_model

    return fetch_demo_model(cache if cache is not None else cache_dir())


def input_files(source: Source) -> tuple[FileRecord, ...]:
    """Size and SHA-256 of every file that a source is made of."""
    root = source.path if source.path.is_dir() else source.path.parent
    return tuple(hash_file(path, relative_to=root) for path in source.input_files)


def source_record(source: Source, *, given: str, files: tuple[FileRecord, ...]) -> SourceRecord:
    """Where a model came from, for engine.json; `given` is what the user named, a revision with it."""
    return SourceRecord(
        kind=source.kind,
        location=given if source.kind == "hub" else str(source.path.resolve()),
        revision=source.revision,
        license=source.license,
        files=files,
    )
