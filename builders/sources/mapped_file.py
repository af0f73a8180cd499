"""A file mapped into memory, read page by page as it is touched, and tensors that are views of it.

It does not know file formats.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING

from tpforge.errors import EnvironmentUnusable, InputRefused

if TYPE_CHECKING:
    import torch

# Linux's value: Python's mmap does not name it before 3.13. Without it the kernel may refuse to map a file
# larger than memory privately; private and writable, because torch wants its buffers writable.
_MAP_NORESERVE = 0x4000


class MappedFile:
    """A file whose bytes are there without being read; writes to its views stay in this process."""

    def __init__(self, path: Path) -> None:
        """Map `path`.

        Raises:
            InputRefused: missing.
            EnvironmentUnusable: no permission to read it.
        """
        self.path = path
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            raise InputRefused(f"{path}: missing") from None
        except PermissionError:
            raise EnvironmentUnusable(f"{path}: no permission to read it") from None
        try:
            self.size = os.fstat(descriptor).st_size
            flags, protection = mmap.MAP_PRIVATE | _MAP_NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE
            self._map = mmap.mmap(descriptor, self.size, flags=flags, prot=protection) if self.size else None
        finally:
            os.close(descriptor)

    def bytes(self, start: int, stop: int) -> bytes:
        """A copy of some bytes; fewer when the file is shorter."""
        return b"" if self._map is None else self._map[start:stop]

    def tensor(self, start: int, *, count: int, dtype: torch.dtype) -> torch.Tensor:
        """A flat view of `count` elements at byte `start`."""
        # Late, because reading headers needs no torch, whose import takes longer than that.
        import torch

        if count == 0 or self._map is None:
            return torch.empty(0, dtype=dtype)
        if start % dtype.itemsize:
            # Vector instructions may want aligned elements; only files of odd header sizes come here.
            copy = bytearray(self._map[start : start + count * dtype.itemsize])
            return torch.frombuffer(copy, dtype=dtype)
        return torch.frombuffer(self._map, dtype=dtype, count=count, offset=start)

    def close(self) -> None:
        """Unmap the file; while views of it are alive, it stays mapped until they are gone."""
        if self._map is not None:
            try:
                self._map.close()
            except BufferError:
                self._map = None
