"""One file sent or fetched: hashed as it moves, resumed where it broke off, tried again.

Which files there are is `transport`'s and the index's.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from engines.transfer.hashing_reader import HashingReader
from engines.transfer.remote import Remote
from engines.transfer.threads import Pace
from tpforge.errors import EnvironmentUnusable, VerificationFailed
from tpforge.manifest import FileRecord
from tpforge.outputs.atomic import hash_file, os_errors

NUM_TRIES = 3
_PART_FLAGS = os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
Result = TypeVar("Result")


def send_file(remote: Remote, engine_dir: Path, name: str, size: int) -> FileRecord:
    """Send a file, and hash the bytes as they go."""

    def send() -> FileRecord:
        with os_errors(engine_dir / name), (engine_dir / name).open("rb") as file:
            source = HashingReader(file)
            remote.write(name, source, size=size)
            return FileRecord(path=name, size=source.size, sha256=source.sha256)

    return _retry(send)


def fetch_file(remote: Remote, record: FileRecord, staging: Path, check: Callable[[], None]) -> bool:
    """Get one file, from where an earlier pull broke off; whether anything was moved.

    Raises:
        VerificationFailed: it has another size or SHA-256 than the record.
        EnvironmentUnusable: the URL cannot be reached, after NUM_TRIES.
    """
    final = staging / record.path
    if final.is_file():
        if hash_file(final, relative_to=staging) == record:
            return False
        final.unlink()
    final.parent.mkdir(parents=True, exist_ok=True)
    part = final.with_name(f"{final.name}.part")
    went_on = part.exists()
    found = _append(remote, record, part, check)
    if found != record and went_on:  # What was there may be of an older engine.
        part.unlink()
        found = _append(remote, record, part, check)
    if found == record:
        part.replace(final)
        return True
    part.unlink()  # What is wrong is not resumed.
    if found.size != record.size:
        raise VerificationFailed(f"{record.path}: {found.size} bytes, expected {record.size}")
    raise VerificationFailed(f"{record.path}: SHA-256 {found.sha256}, expected {record.sha256}")


def _append(remote: Remote, record: FileRecord, part: Path, check: Callable[[], None]) -> FileRecord:
    """Get what is missing of a file, hashing what is there and what comes; what it is then.

    No more is taken than its size and one byte, which says that the file is another.
    """
    with os_errors(part), os.fdopen(os.open(part, _PART_FLAGS, 0o644), "r+b") as file:
        file.seek(0, os.SEEK_END)
        if file.tell() > record.size:
            file.truncate(0)
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256")

        def go_on() -> None:
            pace = Pace(record.path)
            for chunk in remote.read(record.path, start=file.tell()):
                check()
                taken = chunk[: record.size + 1 - file.tell()]
                file.write(taken)
                digest.update(taken)
                if file.tell() > record.size:
                    return
                pace.add(len(chunk))

        if file.tell() < record.size:
            _retry(go_on)
        return FileRecord(path=record.path, size=file.tell(), sha256=digest.hexdigest())


def _retry(action: Callable[[], Result]) -> Result:
    """Try again what a network broke off."""
    for _ in range(NUM_TRIES - 1):
        with suppress(EnvironmentUnusable):
            return action()
    return action()
