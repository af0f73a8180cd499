"""A finished folder, flushed to disk, put in the place of another in one step; and what a kill left of that.

What is written into the folder, and what of the old one is kept, is decided by `atomic` and `written`.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import shutil
from pathlib import Path

from tpforge.outputs.written import Carried, carry_over, read_written

_log = logging.getLogger(__name__)
# linux/fs.h and fcntl.h
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


def swap(temporary: Path, final: Path) -> None:
    """Put `temporary` in the place of `final` in one step; the old folder is removed last."""
    if not final.exists():
        _sync_folders(temporary)
        temporary.rename(final)
        sync(final.parent)
        return
    written, carried = read_written(final), Carried()
    carry_over(final, temporary, written=written, carried=carried)
    shutil.copymode(final, temporary)
    _sync_folders(temporary)
    exchange_paths(temporary, final)
    sync(final.parent)
    try:  # What came into the old folder in between.
        carry_over(temporary, final, written=written, carried=carried)
    except BaseException:
        exchange_paths(temporary, final)
        raise
    shutil.rmtree(temporary, ignore_errors=True)
    if carried.kept:
        names = ", ".join(carried.kept)
        _log.warning(
            "note: %s: was edited, or is not ours and had the name of a new file; kept as %s", final, names
        )


def exchange_paths(first: Path, second: Path) -> None:
    """Exchange two paths, so that at no moment either is missing.

    A file system without renameat2's exchange (some network ones) gets two renames instead: killed
    between them, it keeps the old folder under a hidden name, and the next run brings it back.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    old, new = os.fsencode(first), os.fsencode(second)
    if libc.renameat2(_AT_FDCWD, old, _AT_FDCWD, new, _RENAME_EXCHANGE) == 0:
        return
    code = ctypes.get_errno()
    if code not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        raise OSError(code, os.strerror(code), str(second))
    aside = _aside(second)
    second.rename(aside)
    first.rename(second)
    aside.rename(first)


def _aside(final: Path) -> Path:
    return final.parent / f".{final.name}.old"


def finish_killed_exchange(final: Path) -> None:
    """Bring back the old folder when a run was killed between two renames of an exchange."""
    aside = _aside(final)
    if aside.exists() and not final.exists():
        aside.rename(final)
    shutil.rmtree(aside, ignore_errors=True)


def sync_files(folder: Path) -> None:
    """Flush every file of a folder to disk."""
    for root, _, names in os.walk(folder):
        for path in (Path(root) / name for name in names):
            if path.is_file() and not path.is_symlink():
                sync(path)


def _sync_folders(folder: Path) -> None:
    for root, _, _ in os.walk(folder):
        sync(Path(root))


def sync(path: Path) -> None:
    """Flush a file, or a folder's own entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
