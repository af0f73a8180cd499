"""Where a pull keeps what it has until all of it is there, so that a broken pull can be resumed.

It moves no byte; `one_file` does.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engines.transfer.index import Index
from tpforge.errors import EnvironmentUnusable, InputRefused
from tpforge.outputs.atomic import os_errors
from tpforge.units import format_bytes


def staging_folder(out: Path) -> Path:
    """Where a pull keeps what it has until all of it is there."""
    return out.absolute().parent / f".{out.name}.pull"


@contextmanager
def staging_of(out: Path) -> Iterator[Path]:
    """The staging folder, held against a second pull.

    Raises:
        EnvironmentUnusable: another pull holds it, or it cannot be written.
        InputRefused: something in it is neither a file nor a folder.
    """
    folder = staging_folder(out)
    with os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _refuse_links(folder)
        descriptor = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EnvironmentUnusable(f"{out}: another tpforge is pulling it; wait until it ends") from None
        yield folder
    finally:
        os.close(descriptor)


def _refuse_links(folder: Path) -> None:
    """Refuse to go on in a folder where something would lead a file elsewhere."""
    entries = [
        folder,
        *(Path(root) / name for root, folders, names in os.walk(folder) for name in folders + names),
    ]
    for path in entries:
        mode = path.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise InputRefused(
                f"{path}: is neither a file nor a folder, and no pull made it; remove {folder}"
            )


def refuse_full_disk(staging: Path, index: Index) -> None:
    """Raise EnvironmentUnusable when the disk cannot hold what is still to come."""
    have = sum(path.stat().st_size for path in staging.rglob("*") if path.is_file())
    needed = sum(record.size for record in index.files) - have
    free = shutil.disk_usage(staging).free
    if needed > free:
        raise EnvironmentUnusable(
            f"{staging.parent}: {format_bytes(free)} free, the engine needs {format_bytes(needed)} more"
        )
