"""transfer.json: which files are at a URL, and whether they may be put into an engine's folder at all.

It moves no file. An index comes from a stranger: names and sizes are held to bounds before anything is asked
for by them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Literal

from pydantic import ValidationError

from engines.store import MANIFEST_NAME
from engines.transfer.remote import Remote
from tpforge.errors import InputRefused
from tpforge.manifest import FileRecord, Manifest
from tpforge.records import Record
from tpforge.units import format_bytes

INDEX_NAME = "transfer.json"
MAX_INDEX_BYTES = 16 << 20
MAX_MANIFEST_BYTES = 64 << 20
UNLISTED = (MANIFEST_NAME, "parity.json", "quality.json")
"""What belongs to an engine beside the files that engine.json lists: itself, and what was measured later."""

_MAX_FILE_BYTES = 1 << 50
_MAX_NAME_BYTES, _MAX_PART_BYTES = 1024, 200
_OURS = (".part", ".partial", ".lock", ".pull", ".kept")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Index(Record):
    """transfer.json: the files at a URL; while `complete` is false, those that a push put there so far."""

    schema_version: Literal[1] = 1
    complete: bool
    files: tuple[FileRecord, ...]

    def to_bytes(self) -> bytes:
        """Equal indexes give equal bytes."""
        return (self.model_dump_json(indent=2) + "\n").encode()

    @property
    def digest(self) -> str:
        """SHA-256 of the index: it stands for every byte of the engine."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


def index_of(records: Iterable[FileRecord], *, complete: bool) -> Index:
    """The index of files, sorted by path."""
    return Index(complete=complete, files=tuple(sorted(records, key=lambda record: record.path)))


def read_index(remote: Remote) -> Index:
    """The index at a URL.

    Raises:
        InputRefused: there is none, it is broken or too large, names what is no file of an engine, or its
            push was not finished.
    """
    where = f"{remote.url}/{INDEX_NAME}"
    if remote.size(INDEX_NAME) is None:
        raise InputRefused(
            f"{remote.url}: holds no {INDEX_NAME}; expected an engine that `tpforge engines push` put there"
        )
    try:
        index = Index.model_validate_json(read_small(remote, INDEX_NAME, at_most=MAX_INDEX_BYTES))
    except ValidationError as error:
        raise InputRefused(f"{where}: is not an index of an engine: {error.errors()[0]['msg']}") from error
    if problems := [problem for record in index.files if (problem := _problem(record))]:
        raise InputRefused.listing(f"{where}: names files that no engine can hold:", problems)
    if problems := _collisions([record.path for record in index.files]):
        raise InputRefused.listing(f"{where}: names files that exclude each other:", problems)
    if not index.complete:
        raise InputRefused(
            f"{remote.url}: its push was not finished ({len(index.files)} files are there); push it again"
        )
    if MANIFEST_NAME not in {record.path for record in index.files}:
        raise InputRefused(f"{remote.url}: its index has no {MANIFEST_NAME}, so it is no engine")
    return index


def index_there(remote: Remote) -> tuple[FileRecord, ...]:
    """What an earlier push put there; nothing when its index is missing or broken."""
    if remote.size(INDEX_NAME) is None:
        return ()
    try:
        return Index.model_validate_json(read_small(remote, INDEX_NAME, at_most=MAX_INDEX_BYTES)).files
    except (ValidationError, InputRefused):
        return ()


def read_small(remote: Remote, name: str, *, at_most: int) -> bytes:
    """All bytes of a small file, at most so many and one, whatever the server goes on to send.

    Raises:
        InputRefused: it is larger.
    """
    data = bytearray()
    for chunk in remote.read(name):
        data += chunk
        if len(data) > at_most:
            raise InputRefused(f"{remote.url}/{name}: found more than {format_bytes(at_most)}, expected less")
    return bytes(data)


def belonging(files: Iterable[FileRecord], manifest: Manifest) -> tuple[FileRecord, ...]:
    """Those of the files that are the engine's: listed by engine.json, or of a known name."""
    names = {*UNLISTED, *(record.path for record in manifest.files)}
    return tuple(record for record in files if record.path in names)


def path_problem(name: str) -> str | None:
    """Why a name cannot be that of an engine's file; None when it can.

    A hidden file, or one of the names that a run of ours gives to unfinished ones, is none.
    """
    parts = name.split("/")
    if not name or name.startswith("/") or ".." in parts or "\\" in name:
        return "is outside of the engine"
    if not name.isprintable():
        return "holds a character that cannot be printed"
    if "" in parts or PurePosixPath(name).as_posix() != name:
        return "is not the shortest form of a path"
    if len(name.encode()) > _MAX_NAME_BYTES or any(len(part.encode()) > _MAX_PART_BYTES for part in parts):
        return "is too long"
    if any(part.startswith((".", "~", "-")) or part.endswith((*_OURS, " ", "~")) for part in parts):
        return "is hidden, or has a reserved beginning or end"
    return "is the index itself" if name == INDEX_NAME else None


def _problem(record: FileRecord) -> str | None:
    shown = record.path[:_MAX_PART_BYTES]
    if (problem := path_problem(record.path)) is not None:
        return f"{shown}: {problem}"
    if not 0 <= record.size <= _MAX_FILE_BYTES:
        return f"{shown}: {record.size} bytes, expected 0 to {_MAX_FILE_BYTES}"
    if not _SHA256.fullmatch(record.sha256):
        return f"{shown}: its sha256 is no SHA-256"
    if record.path == MANIFEST_NAME and record.size > MAX_MANIFEST_BYTES:
        return f"{shown}: {record.size} bytes, expected at most {MAX_MANIFEST_BYTES}"
    return None


def _collisions(names: list[str]) -> list[str]:
    """Names that are there twice, and files that are folders of others."""
    folders = {parent.as_posix() for name in names for parent in PurePosixPath(name).parents}
    twice = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set()
    return sorted({*twice, *(folders & set(names))})
