"""A file that is hashed as it is read, so that sending it and proving it cost one reading.

It sends nothing.
"""

from __future__ import annotations

import hashlib
from typing import IO


class HashingReader:
    """The bytes of `file`, once and in order; `size` and `sha256` are of what was read so far."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._digest, self.size = file, hashlib.sha256(), 0

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes, at most `size`; empty at the end."""
        data = self._file.read(size)
        self._digest.update(data)
        self.size += len(data)
        return data

    @property
    def sha256(self) -> str:
        """SHA-256 of what was read."""
        return self._digest.hexdigest()
