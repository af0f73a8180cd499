"""Files linked where the file system can, copied where it cannot.

It replaces nothing that exists, and flushes nothing: `tpforge.outputs.atomic` does.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

# Another file system, one without hard links, too many of them, or a kernel that protects others' files.
_CANNOT_LINK = frozenset(
    {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS}
)


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link a file, or what a symbolic link leads to; copy it where that is impossible.

    Raises:
        FileExistsError: `target` exists.
        OSError: it can be neither linked nor copied.
    """
    real = source.resolve()
    try:
        os.link(real, target)
        return
    except OSError as error:
        if error.errno not in _CANNOT_LINK:
            raise
    with real.open("rb") as read, target.open("xb") as written:
        shutil.copyfileobj(read, written, 1 << 20)


def link_tree(source: Path, target: Path) -> None:
    """The folder `source` at `target`, its files hard-linked or copied."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.rglob("*")):
        place = target / path.relative_to(source)
        if path.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(path, place)
