"""Folders and files that appear whole or not at all, and their hashes.

A new output is made in a hidden sibling, flushed to disk, and renamed; an existing one is replaced only
after the new one is complete. A killed run leaves a hidden sibling, which the next run removes. What in a
replaced folder is not ours goes into the new one; `written` knows what is.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tpforge.errors import EnvironmentUnusable, InputRefused
from tpforge.outputs.exchange import finish_killed_exchange, swap, sync, sync_files
from tpforge.outputs.file_record import FileRecord
from tpforge.outputs.written import (
    RECORD_NAME,
    read_written,
    renew_record,
    write_record,
    written_names,
)

_log = logging.getLogger(__name__)


@contextmanager
def atomic_folder(
    final: Path, *, force: bool = False, resume: bool = False, keep: Callable[[Path], bool] | None = None
) -> Iterator[Path]:
    """A temporary sibling of `final` to write into; it becomes `final` when the block ends well.

    When the block fails, the sibling is removed; after an interrupt it stays if `keep` says so of it, and
    a run with `resume` finds in it what the interrupted one wrote. Of a folder that is replaced, files that
    no run of ours wrote stay, and a file of ours that was edited stays as NAME.kept, which is logged.

    Raises:
        InputRefused: `final` exists and `force` is not given, or it is not an output of ours.
        EnvironmentUnusable: it cannot be written: permission, disk full, or another run is writing it.
    """
    final = final.absolute()
    refuse_existing(final, force=force)
    with os_errors(final):
        final.parent.mkdir(parents=True, exist_ok=True)
    with _locked(final):
        temporary = partial_folder(final)
        with os_errors(final):
            finish_killed_exchange(final)
            refuse_existing(final, force=force)
            if not (resume and keep is not None and keep(temporary)):
                _remove(temporary)
            temporary.mkdir(exist_ok=True)
        try:
            with os_errors(final):
                yield temporary
                write_record(temporary)
                sync_files(temporary)
                swap(temporary, final)
        except BaseException as error:
            interrupted = not isinstance(error, Exception)
            if not (interrupted and keep is not None and keep(temporary)):
                shutil.rmtree(temporary, ignore_errors=True)
            raise


def partial_folder(final: Path) -> Path:
    """The hidden sibling in which `final` is made."""
    return final.absolute().parent / f".{final.name}.partial"


def refuse_existing(final: Path, *, force: bool) -> None:
    """Raise InputRefused when `final` exists and may not be replaced.

    A file, a link, a folder that the current directory lies in, or one that no run of ours wrote is not
    replaced even with `force`.
    """
    with os_errors(final):
        exists = os.path.lexists(final)
    if not exists:
        return
    if not force:
        raise InputRefused(f"{final}: exists already; give another --out, or --force to replace it")
    if final.is_symlink() or not final.is_dir():
        raise InputRefused(f"{final}: is not a folder, so --force does not replace it; give another --out")
    if Path.cwd().is_relative_to(final.resolve()):
        raise InputRefused(f"{final}: holds the current directory, so --force does not replace it")
    with os_errors(final):
        read_written(final)


def refuse_folder(file: Path) -> None:
    """Raise InputRefused when a folder lies where a file is to be written."""
    if file.is_dir():
        raise InputRefused(f"{file}: is a folder; give the name of a file, such as {file / 'NAME'}")


def refuse_unwritable(file: Path) -> None:
    """Raise before long work whose result is to become a file that cannot be written.

    Raises:
        InputRefused: a folder lies there.
        EnvironmentUnusable: nothing can be written there.
    """
    refuse_folder(file)
    with claimed(file):
        pass


def remove_output(folder: Path, *, first: str | None = None) -> bool:
    """Remove what runs of ours wrote into a folder, `first` before all; whether the folder is gone.

    It stays, with files that are not ours in it, which is logged.

    Raises:
        InputRefused: it is not an output of ours.
    """
    with os_errors(folder):
        for name in sorted(written_names(folder), key=lambda name: name != first):
            (folder / name).unlink()
        (folder / RECORD_NAME).unlink(missing_ok=True)
        for root, _, _ in os.walk(folder, topdown=False):
            if not any(Path(root).iterdir()):
                Path(root).rmdir()
    if folder.exists():
        _log.warning("note: %s: stays, since files in it are not of tpforge", folder)
    return not folder.exists()


def write_atomic(path: Path, text: str) -> None:
    """Write a text file by a temporary sibling and a rename; both are on the disk when it returns.

    Folders above it are made.

    Raises:
        InputRefused: a folder lies there.
        EnvironmentUnusable: it cannot be written.
    """
    refuse_folder(path)
    with os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_killed_writes(path)
        temporary, descriptor = _open_temporary(path)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(descriptor)
                temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync(path.parent)


def write_into(folder: Path, name: str, text: str) -> None:
    """Write a file of an output that is there already, and note in its record that it is ours."""
    write_atomic(folder / name, text)
    with os_errors(folder / name):
        renew_record(folder, name)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Wait for the one right to change a file, so that none of two who read, change and write it is lost."""
    with os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path.with_name(f".{path.name}.lock"), os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _open_temporary(path: Path) -> tuple[Path, int]:
    """A new sibling of `path`, locked for as long as it is written."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666)
        if _is_locked_now(descriptor) and temporary.exists():
            return temporary, descriptor
        os.close(descriptor)  # Another writer took it for the leftover of a killed one.
        temporary.unlink(missing_ok=True)


def _remove_killed_writes(path: Path) -> None:
    """Remove temporary siblings of `path` whose writer is gone, as their lock tells."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        try:
            descriptor = os.open(leftover, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        if _is_locked_now(descriptor):
            leftover.unlink(missing_ok=True)
        os.close(descriptor)


def _is_locked_now(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_texts(folder: Path, texts: Mapping[str, str], *, force: bool) -> None:
    """Write texts by file name into a folder, which appears whole.

    Raises:
        InputRefused: the folder exists and `force` is not given.
    """
    with atomic_folder(folder, force=force) as partial:
        for name, text in texts.items():
            (partial / name).write_text(text, encoding="utf-8")


def hash_file(path: Path, *, relative_to: Path) -> FileRecord:
    """Size and SHA-256 of a file, under its path relative to a folder."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        size = file.tell()
    return FileRecord(path=path.relative_to(relative_to).as_posix(), size=size, sha256=digest.hexdigest())


@contextmanager
def os_errors(path: Path, *, instead: str = "give another --out") -> Iterator[None]:
    """Turn an OSError of the block into EnvironmentUnusable that names the path and the remedy.

    `instead` says how another place is given. A text that is no UTF-8 is refused by its path.
    """
    remedies = {
        errno.ENOSPC: f"the disk is full; free space or {instead}",
        errno.EDQUOT: f"the disk quota is used up; free space or {instead}",
        errno.EACCES: f"no permission; {instead}, or change the permissions",
        errno.EPERM: f"no permission; {instead}, or change the permissions",
        errno.EROFS: f"the file system is read-only; {instead}",
        errno.ENOTDIR: f"a part of the path is a file, not a directory; {instead}",
        errno.EFBIG: f"a file may not grow so large here (`ulimit -f`); raise the limit or {instead}",
        errno.EMFILE: "this process has too many files open (`ulimit -n`); raise the limit",
        errno.ENFILE: "this machine has too many files open; end what holds them",
        errno.EIO: f"the disk does not answer; look at the machine's log, and {instead}",
        errno.ENAMETOOLONG: f"the name is too long for the file system; {instead}, with a shorter name",
        errno.EEXIST: f"a part of the path is a file, not a directory; {instead}",
    }
    try:
        yield
    except OSError as error:
        if error.errno not in remedies:
            raise
        # Of a copy that failed by what is written, the second name is that of what was to be written.
        is_written = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        named = (error.filename2 if is_written else None) or error.filename or path
        raise EnvironmentUnusable(f"{named}: {remedies[error.errno]}") from error
    except UnicodeDecodeError as error:
        raise InputRefused(f"{path}: is not UTF-8 text: {error}") from error


@contextmanager
def claimed(final: Path) -> Iterator[None]:
    """Hold the right to make or change `final`, from before the long work whose result goes there.

    Folders above it that were made for it are gone again when nothing came into them.

    Raises:
        EnvironmentUnusable: nothing can be written beside it, or another run holds it.
    """
    final = final.absolute()
    with os_errors(final):
        made = [folder for folder in final.parents if not folder.exists()]
        final.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(final, suffix="claim"):
            yield
    finally:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def _locked(final: Path, *, suffix: str = "lock") -> Iterator[None]:
    """Hold the one right to write `final`; the lock ends with the process, however it ends."""
    path = final.parent / f".{final.name}.{suffix}"
    with os_errors(final):
        descriptor = _open_lock(path, final)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _open_lock(path: Path, final: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise EnvironmentUnusable(f"{final}: another tpforge is writing it; wait until it ends") from None
        # Its last holder may have removed the file between our open and our lock: then it guards nothing.
        if path.exists() and path.stat().st_ino == os.fstat(descriptor).st_ino:
            return descriptor
        os.close(descriptor)


def _remove(folder: Path) -> None:
    """Remove what a run left; what cannot be removed must not become a part of the next output."""
    if os.path.lexists(folder):
        shutil.rmtree(folder)
