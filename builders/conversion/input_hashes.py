"""Hashes the input files of a conversion on a thread of its own, while the rank files are written.

hashlib releases the interpreter's lock, so this costs a core, not time. It stops when it is left early, and
does not run far ahead of the writing, so that each page comes from the disk once for both.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from tpforge.manifest import FileRecord

_CHUNK_BYTES = 1 << 20
# How far it may run ahead: well within the page cache of any machine that converts models.
_AHEAD_BYTES = 4 << 30


class InputHashes:
    """Records of files, relative to a folder; a context manager, so that an interrupted run ends at once.

    `pace` tells the part of the writing that is done, from 0 to 1.
    """

    def __init__(
        self, paths: Iterable[Path], *, relative_to: Path, pace: Callable[[], float] = lambda: 1.0
    ) -> None:
        self._paths = tuple(paths)
        self._pace = pace
        self._total = sum(path.stat().st_size for path in self._paths)
        self._hashed = 0
        self._root = relative_to
        self._records: list[FileRecord] = []
        self._error: OSError | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="input-hashes")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def result(self) -> tuple[FileRecord, ...]:
        """Wait for all files; an OSError of reading one is raised here."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return tuple(self._records)

    def _run(self) -> None:
        try:
            for path in self._paths:
                self._hash(path)
        except OSError as error:
            self._error = error

    def _hash(self, path: Path) -> None:
        digest = hashlib.sha256()
        size = 0
        with path.open("rb") as file:
            while not self._stop.is_set() and (chunk := file.read(_CHUNK_BYTES)):
                digest.update(chunk)
                size += len(chunk)
                self._hashed += len(chunk)
                while self._hashed > self._pace() * self._total + _AHEAD_BYTES:
                    if self._stop.wait(0.02):
                        return
        name = path.relative_to(self._root).as_posix()
        self._records.append(FileRecord(path=name, size=size, sha256=digest.hexdigest()))
