"""Reads small input files whole, and tells a Git LFS pointer from the file that it stands for.

It does not know what a file means; large ones are mapped (`mapped_file`).
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tpforge.errors import EnvironmentUnusable, InputRefused

MAX_BYTES = 1 << 30
_LFS_POINTER = b"version https://git-lfs"


def refuse_lfs_pointer(path: Path, head: bytes) -> None:
    """Raise InputRefused when `head`, the first bytes of a file, is a Git LFS pointer's."""
    if head.startswith(_LFS_POINTER):
        raise InputRefused(
            f"{path}: is a Git LFS pointer, not the file itself; run `git lfs pull` in {path.parent}"
        )


def read_bytes(path: Path) -> bytes:
    """The content of a small input file.

    Raises:
        InputRefused: it is missing, no file but a pipe or a device, too large, or a Git LFS pointer.
        EnvironmentUnusable: no permission to read it.
    """
    try:
        # A pipe that nobody writes to would be waited for.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InputRefused(f"{path}: is a pipe or a device, expected a file")
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise InputRefused(f"{path}: missing") from None
    except PermissionError:
        raise EnvironmentUnusable(f"{path}: no permission to read it") from None
    if len(content) > MAX_BYTES:
        raise InputRefused(f"{path}: has more than {MAX_BYTES >> 20} MiB, expected a small file")
    refuse_lfs_pointer(path, content)
    return content
