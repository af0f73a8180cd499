"""Reads small input files whole, and tells a Git LFS pointer from the file that it stands for.

It does not know what a file means; large ones are mapped (`mapped_file`).
"""

from __future__ import annotations

from pathlib import Path

from tpforge.errors import EnvironmentUnusable, InputRefused

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
        InputRefused: it is missing or a Git LFS pointer.
        EnvironmentUnusable: no permission to read it.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputRefused(f"{path}: missing") from None
    except PermissionError:
        raise EnvironmentUnusable(f"{path}: no permission to read it") from None
    refuse_lfs_pointer(path, content)
    return content
