"""Files that this program believes: in a folder of the user's own, which nobody else can write.

It knows nothing of servers. What lies beside an engine may have come with it, from anybody, and is never
asked which process to end, which file to remove or which program to run.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tpforge.errors import EnvironmentUnusable
from tpforge.outputs.atomic import os_errors
from tpforge.outputs.places import state_home

MAX_BYTES = 1 << 20
"""Of a file of ours; a larger one is not ours."""
_RUNNING = "running"
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


def private_folder(place: Path) -> Path:
    """The user's own folder for what runs at `place`, such as out/NAME/server; `make_private` makes it."""
    name = hashlib.sha256(os.fsencode(place.resolve())).hexdigest()[:24]
    return state_home() / _RUNNING / name


def private_folders() -> Iterator[Path]:
    """The folders of everything of the user's that runs, or did."""
    root = state_home() / _RUNNING
    if root.is_dir():
        yield from sorted(root.iterdir())


def make_private(place: Path) -> Path:
    """The folder of `place`, made with mode 700 when it is not there.

    Raises:
        EnvironmentUnusable: it cannot be made, or another user owns or can write it or a folder above it.
    """
    folder = private_folder(place)
    try:
        state_home().parent.mkdir(parents=True, exist_ok=True)
        for path in (state_home(), folder.parent, folder):
            path.mkdir(mode=0o700, exist_ok=True)
            _refuse_shared(path, path.lstat(), kind=stat.S_ISDIR)
    except OSError as error:
        raise EnvironmentUnusable(
            f"{error.filename or folder}: {error.strerror}; the state of running servers is kept there: set "
            "XDG_STATE_HOME to a folder of your own"
        ) from error
    return folder


def read_private(path: Path) -> bytes | None:
    """A file of a private folder; None when there is none.

    Raises:
        EnvironmentUnusable: it, or a folder above it, is not the user's alone, or it is no plain file.
    """
    try:
        for folder in (state_home(), path.parent.parent, path.parent):
            _refuse_shared(folder, folder.lstat(), kind=stat.S_ISDIR)
        # Not to follow a link, and not to wait for the other end of a pipe.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise EnvironmentUnusable(
            f"{path}: {error.strerror}; expected a file of your own: remove it"
        ) from error
    try:
        found = os.fstat(descriptor)
        _refuse_shared(path, found, kind=stat.S_ISREG)
        if found.st_size > MAX_BYTES:
            raise EnvironmentUnusable(
                f"{path}: {found.st_size} bytes, expected at most {MAX_BYTES}: remove it"
            )
        return os.read(descriptor, MAX_BYTES)
    finally:
        os.close(descriptor)


def write_private(path: Path, text: str) -> None:
    """Replace a file of a private folder at once; it is the user's alone whatever the umask says."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
    except OSError as error:
        raise EnvironmentUnusable(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def open_log(path: Path) -> IO[bytes]:
    """Open a log to append to; a link, or a pipe, that came with an engine is not followed or written to.

    Raises:
        EnvironmentUnusable: something else than a file is there, or it cannot be written.
    """
    flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os_errors(path):
        try:
            descriptor = os.open(path, flags, 0o644)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
                raise
            raise EnvironmentUnusable(f"{path}: is no plain file, and not of tpforge: remove it") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise EnvironmentUnusable(f"{path}: is no plain file, and not of tpforge: remove it")
    return os.fdopen(descriptor, "ab")


def _refuse_shared(path: Path, found: os.stat_result, *, kind: object) -> None:
    assert callable(kind)
    if not kind(found.st_mode):
        raise EnvironmentUnusable(f"{path}: is of another kind than expected, and not of tpforge: remove it")
    if found.st_uid != os.geteuid():
        raise EnvironmentUnusable(
            f"{path}: belongs to user {found.st_uid}, expected {os.geteuid()}; set XDG_STATE_HOME to a "
            "folder of your own"
        )
    if found.st_mode & _OTHERS_MAY_WRITE:
        raise EnvironmentUnusable(
            f"{path}: can be written by other users (mode {stat.S_IMODE(found.st_mode):o}), so it is not "
            f"believed; if it is as you left it: chmod go-w {path}"
        )
