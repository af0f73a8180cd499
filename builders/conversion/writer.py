"""Writes safetensors rank files front to back, hashing on the way; the header is complete before any data.

It does not decide what is in them. The folder is made atomic by the caller.
Source: safetensors README, "Format".
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tpforge.dtypes import DType
from tpforge.manifest import FileRecord
from tpforge.shards.sharding import RankTensor, stored_tensors

_ALIGNMENT = 8
_CHUNK_BYTES = 1 << 20
# The disk begins with what is complete while more is being hashed; the fsync at the end finds little to do.
_FLUSH_BYTES = 1 << 25


@dataclass(frozen=True)
class RankFilePlan:
    """One rank file before it is written: its tensors in order, its header, its size in bytes."""

    name: str
    tensors: tuple[RankTensor, ...]
    header: bytes
    size: int


def plan_rank_file(name: str, tensors: tuple[RankTensor, ...], *, dtype: DType) -> RankFilePlan:
    """Lay the tensors one after another behind a header that is padded to 8 bytes with spaces.

    `dtype` is the type of the tensors that have none of their own.
    """
    entries = {}
    offset = 0
    for tensor in tensors:
        for stored in stored_tensors(tensor, dtype=dtype):
            stop = offset + stored.num_bytes
            entries[stored.name] = {
                "dtype": stored.dtype,
                "shape": list(stored.shape),
                "data_offsets": [offset, stop],
            }
            offset = stop
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    header = len(text).to_bytes(8, "little") + text
    return RankFilePlan(name=name, tensors=tensors, header=header, size=len(header) + offset)


class HashingWriter:
    """A new file that is written front to back; `close` gives its size and SHA-256."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("xb", buffering=0)
        self._digest = hashlib.sha256()
        self._flushed = 0
        self.size = 0

    @classmethod
    def resume(cls, path: Path, size: int) -> Self | None:
        """A file of an earlier run, cut to `size` bytes and hashed up to there; None when it is shorter."""
        writer = cls.__new__(cls)
        try:
            writer._file = path.open("r+b", buffering=0)
        except FileNotFoundError:
            return None
        writer._path, writer._digest, writer.size, writer._flushed = path, hashlib.sha256(), 0, 0
        while chunk := writer._file.read(min(_CHUNK_BYTES, size - writer.size)):
            writer._digest.update(chunk)
            writer.size += len(chunk)
        if writer.size < size:
            writer._file.close()
            return None
        writer._file.truncate(size)
        return writer

    @property
    def digest(self) -> str:
        """The SHA-256 of what is written so far."""
        return self._digest.copy().hexdigest()

    def write(self, data: bytes | memoryview) -> None:
        """Append all of `data`."""
        self._digest.update(data)
        rest = memoryview(data)
        self.size += len(rest)
        while rest:
            written = os.write(self._file.fileno(), rest)
            rest = rest[written:]
        if self.size - self._flushed >= _FLUSH_BYTES:
            # On dirty pages this starts writing them out, and waits for nothing.
            os.posix_fadvise(
                self._file.fileno(), self._flushed, self.size - self._flushed, os.POSIX_FADV_DONTNEED
            )
            self._flushed = self.size

    def close(self) -> FileRecord:
        """Close the file; its record is relative to its folder."""
        self._file.close()
        return FileRecord(path=self._path.name, size=self.size, sha256=self.digest)


def write_config(path: Path, config: dict[str, object]) -> FileRecord:
    """Write a config.json as upstream does: four spaces, keys in the order given."""
    return write_whole(path, [config_bytes(config)])


def config_bytes(config: dict[str, object]) -> bytes:
    """The content of a config.json."""
    return (json.dumps(config, indent=4) + "\n").encode()


def write_whole(path: Path, chunks: Iterable[bytes]) -> FileRecord:
    """Write a file from chunks."""
    writer = HashingWriter(path)
    try:
        for chunk in chunks:
            writer.write(chunk)
    finally:
        record = writer.close()
    return record
