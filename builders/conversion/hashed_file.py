"""A file in blocks: a thread fills them front to back, others hash them in order and write them side by side.

It does not decide what is in the file, and leaves it where it is when it is not finished. Blocks go past the
page cache where the file system allows it, which takes less of the processor.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from threading import Condition
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np

from tpforge.manifest import FileRecord

if TYPE_CHECKING:
    from hashlib import _Hash

# Of memory, file offset and length: what every disk takes directly.
_ALIGNMENT = 4096
_NUM_BLOCKS = 4
_LEAST_BLOCK_BYTES, _MOST_BLOCK_BYTES = 1 << 18, 1 << 22
_ALL_BLOCKS_BYTES = 3 << 23
# They wait for the disk, so that their number has nothing to do with that of the processors.
_NUM_WRITING = 8

Notify = Callable[[int, str], None]
"""Takes the size and the SHA-256 of the file up to a mark."""


class Workers:
    """The threads that hash and write the blocks of files; a context manager."""

    def __init__(self, num_hashing: int) -> None:
        self.hashing = ThreadPoolExecutor(num_hashing, thread_name_prefix="hash")
        self.writing = ThreadPoolExecutor(_NUM_WRITING, thread_name_prefix="write")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.hashing.shutdown()
        self.writing.shutdown()


@dataclass(frozen=True)
class Beginning:
    """What a file of an earlier run holds up to `size`, as it was read again."""

    size: int
    digest: _Hash


def read_beginning(path: Path, size: int) -> Beginning | None:
    """The first `size` bytes of a file; None when it has fewer or is not there."""
    digest, left = hashlib.sha256(), size
    try:
        with path.open("rb", buffering=0) as file:
            while chunk := file.read(min(_MOST_BLOCK_BYTES, left)):
                digest.update(chunk)
                left -= len(chunk)
    except FileNotFoundError:
        return None
    return None if left else Beginning(size, digest)


@dataclass
class _Block:
    """A part of the file on its way, at byte `start`: `buffer` up to `filled`, new from `hashed` on."""

    buffer: mmap.mmap
    start: int
    filled: int = 0
    hashed: int = 0
    steps_left: int = 2
    marks: list[tuple[int, Notify]] = field(default_factory=list)
    told: list[tuple[Notify, int, str]] = field(default_factory=list)


class HashedFile:
    """A new file, or one of an earlier run that is resumed; `size` is how much was given to `write`.

    `whole` is the size that it is to have, `num_files` how many are written beside one another.
    """

    def __init__(
        self, path: Path, *, whole: int, workers: Workers, num_files: int = 1, after: Beginning | None = None
    ) -> None:
        """Open it.

        Raises:
            FileExistsError: it is there, and `after` is not given.
        """
        self._path, self._workers = path, workers
        self._descriptor = _open(path, os.O_RDWR if after else os.O_RDWR | os.O_CREAT | os.O_EXCL)
        # Blocks that do not make the file longer are written side by side.
        os.ftruncate(self._descriptor, whole)
        self._block_bytes = _block_bytes(num_files)
        self._free: SimpleQueue[mmap.mmap] = SimpleQueue()
        for _ in range(_NUM_BLOCKS):
            self._free.put(mmap.mmap(-1, self._block_bytes))
        self._on_the_way: deque[_Block] = deque()
        self._to_hash: deque[_Block] = deque()
        self._is_hashing = False
        self._changed = Condition()
        self._error: OSError | None = None
        self._record: FileRecord | None = None
        self._digest = hashlib.sha256() if after is None else after.digest
        self.size = 0 if after is None else after.size
        self._next_start = 0
        self._block = None if after is None else self._last_block_again(path, after.size)

    def write(self, data: bytes | memoryview) -> None:
        """Append all of `data`; it may be changed afterwards.

        Raises:
            OSError: an earlier block could not be written.
        """
        rest = np.frombuffer(data, dtype=np.uint8) if len(data) else np.empty(0, np.uint8)
        self.size += len(rest)
        while len(rest):
            block = self._filling()
            taken = rest[: self._block_bytes - block.filled]
            # Unlike a slice of the buffer, this lets other threads run: the data may come from the disk.
            into = np.frombuffer(block.buffer, np.uint8, len(taken), block.filled)
            np.copyto(into, taken)
            block.filled += len(taken)
            rest = rest[len(taken) :]
            if block.filled == self._block_bytes:
                self._hand_over()

    def mark(self, notify: Notify) -> None:
        """Call `notify` once all bytes up to here are hashed and with the kernel; marks come in order."""
        block = self._filling()
        block.marks.append((block.filled, notify))

    def close(self) -> FileRecord:
        """Wait until all of it is on the disk; its record is relative to its folder.

        Raises:
            OSError: a block could not be written.
        """
        if self._record is not None:
            return self._record
        if self._block is not None:
            self._hand_over()
        with self._changed:
            self._changed.wait_for(lambda: not self._on_the_way)
        self._record = FileRecord(path=self._path.name, size=self.size, sha256=self._digest.hexdigest())
        try:
            os.ftruncate(self._descriptor, self.size)
            os.fsync(self._descriptor)
        finally:
            os.close(self._descriptor)
        if self._error is not None:
            raise self._error
        return self._record

    def _filling(self) -> _Block:
        """The block that is not full."""
        if self._block is None:
            buffer = self._free.get()
            if self._error is not None:
                self._free.put(buffer)
                raise self._error
            self._block = _Block(buffer, start=self._next_start)
            self._next_start += self._block_bytes
        return self._block

    def _last_block_again(self, path: Path, size: int) -> _Block:
        """What lies behind the last whole unit of the disk, which is written again with what follows."""
        start = size - size % _ALIGNMENT
        block = _Block(self._free.get(), start=start, filled=size - start, hashed=size - start)
        with path.open("rb") as file:
            file.seek(start)
            block.buffer[: block.filled] = file.read(block.filled)
        self._next_start = start + self._block_bytes
        return block

    def _hand_over(self) -> None:
        block, self._block = self._block, None
        assert block is not None
        with self._changed:
            self._on_the_way.append(block)
            self._to_hash.append(block)
            if not self._is_hashing:
                self._is_hashing = True
                self._workers.hashing.submit(self._hash_next)
        self._workers.writing.submit(self._write, block)

    def _hash_next(self) -> None:
        """Hash one block, and come again for the next: files take turns, each in its own order."""
        block = self._to_hash[0]
        with memoryview(block.buffer) as view:
            for position, notify in [*block.marks, (block.filled, None)]:
                self._digest.update(view[block.hashed : position])
                block.hashed = max(block.hashed, position)
                if notify is not None:
                    block.told.append((notify, block.start + position, self._digest.copy().hexdigest()))
        with self._changed:
            self._to_hash.popleft()
            self._is_hashing = bool(self._to_hash)
            if self._is_hashing:
                self._workers.hashing.submit(self._hash_next)
            self._step_done(block)

    def _write(self, block: _Block) -> None:
        stop = block.filled + -block.filled % _ALIGNMENT
        try:
            if self._error is None:
                _write_at(self._descriptor, block.buffer, stop=stop, start=block.start)
        except OSError as error:
            self._error = OSError(error.errno, error.strerror, str(self._path))
        with self._changed:
            self._step_done(block)

    def _step_done(self, block: _Block) -> None:
        """Free what is hashed and written up to the first block that is not, and say so."""
        block.steps_left -= 1
        while self._on_the_way and not self._on_the_way[0].steps_left:
            done = self._on_the_way.popleft()
            self._tell(done)
            self._free.put(done.buffer)
        self._changed.notify_all()

    def _tell(self, done: _Block) -> None:
        try:
            for notify, size, digest in done.told if self._error is None else ():
                notify(size, digest)
        except OSError as error:
            self._error = error


def _block_bytes(num_files: int) -> int:
    """As large as all files together can have, a multiple of the alignment."""
    fair = _ALL_BLOCKS_BYTES // (_NUM_BLOCKS * num_files)
    return max(_LEAST_BLOCK_BYTES, min(_MOST_BLOCK_BYTES, fair)) // _ALIGNMENT * _ALIGNMENT


def _open(path: Path, flags: int) -> int:
    """A descriptor that writes past the page cache, or through it where that is refused."""
    try:
        return os.open(path, flags | os.O_CLOEXEC | os.O_DIRECT, 0o666)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # Some kernels make the file before they refuse.
        return os.open(path, flags & ~os.O_EXCL | os.O_CLOEXEC, 0o666)


def _write_at(descriptor: int, buffer: mmap.mmap, *, stop: int, start: int) -> None:
    """Write the buffer up to `stop`; a disk with larger units gets it through the page cache."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    done = 0
    while done < stop:
        try:
            with memoryview(buffer) as view:
                done += os.pwrite(descriptor, view[done:stop], start + done)
        except OSError as error:
            if error.errno != errno.EINVAL or not flags & os.O_DIRECT:
                raise
            flags &= ~os.O_DIRECT
            fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)
    if not flags & os.O_DIRECT:
        # On dirty pages this starts writing them out, and waits for nothing: fsync will find little to do.
        os.posix_fadvise(descriptor, start, stop, os.POSIX_FADV_DONTNEED)
