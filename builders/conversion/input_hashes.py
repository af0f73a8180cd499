"""Hashes the input files of a conversion while the rank files are written, several side by side.

hashlib releases the interpreter's lock, so this costs a core for each, not time. It stops when it is left
early, and does not run far ahead of the writing, so that each page comes from the disk once for both.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Self

from tpforge.manifest import FileRecord

_CHUNK_BYTES = 1 << 20
# What the disk is asked for beforehand: a network answers many requests at once faster than in turn.
_ASKED_BYTES = 1 << 24
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_POLL_S = 0.02


def num_input_threads(num_files: int, *, num_processors: int) -> int:
    """How many files are hashed at once: half the processors are for what is written."""
    return max(1, min(num_files, num_processors // 2))


class InputHashes:
    """Records of files, relative to a folder; a context manager, so that an interrupted run ends at once.

    `pace` tells the part of the writing that is done, from 0 to 1; `num_threads` threads of `pool` are taken.
    """

    def __init__(
        self,
        paths: Iterable[Path],
        *,
        relative_to: Path,
        pool: ThreadPoolExecutor,
        num_threads: int = 1,
        pace: Callable[[], float] = lambda: 1.0,
    ) -> None:
        self._paths = tuple(paths)
        self._root, self._pool, self._num_threads, self._pace = relative_to, pool, num_threads, pace
        starts = accumulate((path.stat().st_size for path in self._paths), initial=0)
        *self._starts, self._total = starts
        self._ahead_bytes = _ahead_bytes()
        self._numbers = iter(range(len(self._paths)))
        self._lock = threading.Lock()
        self._records: dict[int, FileRecord] = {}
        self._stop = threading.Event()
        self._futures: list[Future[None]] = []

    def __enter__(self) -> Self:
        self._futures = [self._pool.submit(self._run) for _ in range(self._num_threads)]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        wait(self._futures)

    def result(self) -> tuple[FileRecord, ...]:
        """Wait for all files; an OSError of reading one is raised here."""
        for future in self._futures:
            future.result()
        return tuple(self._records[number] for number in range(len(self._paths)))

    def _run(self) -> None:
        """Take one file after another."""
        with mmap.mmap(-1, _CHUNK_BYTES) as buffer:
            while not self._stop.is_set():
                with self._lock:
                    number = next(self._numbers, None)
                if number is None:
                    return
                self._hash(number, buffer)

    def _hash(self, number: int, buffer: mmap.mmap) -> None:
        path, start = self._paths[number], self._starts[number]
        digest, size, asked = hashlib.sha256(), 0, 0
        with path.open("rb", buffering=0) as file, memoryview(buffer) as view:
            while True:
                if not self._may_read(start + size):
                    return
                if size >= asked:
                    os.posix_fadvise(file.fileno(), size, 2 * _ASKED_BYTES, os.POSIX_FADV_WILLNEED)
                    asked = size + _ASKED_BYTES
                if not (count := file.readinto(view)):
                    break
                digest.update(view[:count])
                size += count
        name = path.relative_to(self._root).as_posix()
        self._records[number] = FileRecord(path=name, size=size, sha256=digest.hexdigest())

    def _may_read(self, position: int) -> bool:
        """Wait until the writing is close to a position of the input; False when all ends early."""
        while not self._stop.is_set():
            if position <= self._pace() * self._total + self._ahead_bytes:
                return True
            self._stop.wait(_POLL_S)
        return False


def _ahead_bytes() -> int:
    """An eighth of the memory that there is for this process: well within its page cache."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = _CGROUP_LIMIT.read_text(encoding="ascii").strip()
    except OSError:
        limit = "max"
    return (memory if limit == "max" else min(memory, int(limit))) // 8
