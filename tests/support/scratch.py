"""Where tests write: in memory where there is plenty of it.

A suite of conversions is as fast as its disk. Nothing here asks that it outlives the machine.
"""

import os
import shutil
import tempfile
from pathlib import Path

import psutil

_MEMORY = Path("/dev/shm")
_WANTED = 8 << 30
"""Bytes that must be free: a run writes up to 2 GiB at once, and what it starts needs memory too."""


def write_to_memory() -> None:
    """Let this process, and all that it starts, make temporary files in memory, unless TMPDIR says where."""
    if "TMPDIR" not in os.environ and _has_room():
        os.environ["TMPDIR"] = tempfile.tempdir = str(_MEMORY)


def _has_room() -> bool:
    """A container's /dev/shm is small, and may not hold programs that run."""
    try:
        return (
            os.access(_MEMORY, os.W_OK)
            and not os.statvfs(_MEMORY).f_flag & os.ST_NOEXEC
            and shutil.disk_usage(_MEMORY).free >= _WANTED
            and psutil.virtual_memory().available >= 2 * _WANTED
        )
    except OSError:
        return False
