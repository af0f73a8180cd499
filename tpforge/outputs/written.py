"""What an earlier run of ours wrote into a folder, so that a run that replaces it loses nothing else.

It moves no folder: `atomic` does. The record is a hidden file of the folder, with the size and the SHA-256 of
every file; engines and runs of an earlier version, which have none, are known by engine.json and run.json.
"""

from __future__ import annotations

import errno
import filecmp
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import Field, ValidationError

from tpforge.errors import InputRefused
from tpforge.outputs.file_record import FileRecord
from tpforge.records import Record

RECORD_NAME = ".tpforge.json"
KEPT = ".kept"
"""What is appended to the name of a file that stays beside the new one of its name."""

_ENGINE = "engine.json"
# What a version without records wrote into an engine's folder, beside what engine.json lists, and a run's.
_OF_AN_ENGINE = (_ENGINE, "parity.json", "quality.json")
_OF_A_RUN = ("run.json", "samples.jsonl", "metrics.csv", "quality.json")
_EXPORTS_OF_A_RUN = "aiperf*.json"
_CANNOT_LINK = {errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}


class Written(Record):
    """The content of `.tpforge.json`: what was written, by path in the folder; links by their targets.

    `unhashed` are names that count as ours though nobody noted what was in them.
    """

    schema_version: Literal[1] = 1
    files: tuple[FileRecord, ...] = ()
    links: dict[str, str] = Field(default_factory=dict)
    unhashed: tuple[str, ...] = ()


def note_files(folder: Path, files: Iterable[FileRecord]) -> None:
    """Note files whose hashes are known while a folder is written; `write_record` hashes the rest."""
    _write(folder, Written(files=tuple(files)))


def write_record(folder: Path) -> None:
    """Record everything in a finished folder; what was noted, or an engine.json lists, is not read again."""
    known = {file.path: file for file in (*_noted(folder), *_listed_by_engines(folder))}
    files, links = [], {}
    for name, path in _entries(folder):
        if path.is_symlink():
            links[name] = str(path.readlink())
            continue
        found = known.get(name)
        size = path.stat().st_size
        files.append(found if found and found.size == size else _hashed(name, path))
    _write(folder, Written(files=tuple(sorted(files, key=lambda file: file.path)), links=links))


def renew_record(folder: Path, name: str) -> None:
    """Note that a command of ours wrote `name` in a folder that has a record; does nothing in one without."""
    if not (folder / RECORD_NAME).is_file():
        return
    written = _parsed(folder)
    others = (file for file in written.files if file.path != name)
    files = sorted([*others, _hashed(name, folder / name)], key=lambda file: file.path)
    _write(folder, written.model_copy(update={"files": tuple(files)}))


def read_written(folder: Path) -> Written:
    """What we wrote into a folder; nothing when the folder is empty.

    Raises:
        InputRefused: it is no output of ours, as far as the folder says, or its record is broken.
    """
    if (folder / RECORD_NAME).is_file():
        return _parsed(folder)
    if (folder / _ENGINE).is_file():
        listed = tuple(_listed(folder / _ENGINE, folder))
        if listed:
            ours = tuple(name for name in _OF_AN_ENGINE if (folder / name).is_file())
            return Written(files=listed, unhashed=ours)
    if all((folder / name).is_file() for name in _OF_A_RUN[:2]):
        exports = [path.name for path in folder.glob(_EXPORTS_OF_A_RUN)]
        return Written(unhashed=tuple(name for name in [*_OF_A_RUN, *exports] if (folder / name).is_file()))
    if not any(folder.iterdir()):
        return Written()
    raise InputRefused(
        f"{folder}: holds files and no {RECORD_NAME}, so it is not known to be an output of tpforge, and "
        "--force does not replace it; give another --out, or remove the folder yourself"
    )


def written_names(folder: Path) -> tuple[str, ...]:
    """The files and links that we wrote into a folder and that are there, sorted."""
    written = read_written(folder)
    names = {*(file.path for file in written.files), *written.links, *written.unhashed}
    return tuple(sorted(name for name, _ in _entries(folder) if name in names))


def is_beside(name: str) -> bool:
    """Whether a name in an output is that of its record, or of a file that was kept beside a new one."""
    return name == RECORD_NAME or KEPT in PurePosixPath(name).suffixes


@dataclass
class Carried:
    """What was taken from an old folder into a new one; `kept` are the names of files put beside new ones."""

    kept: list[str] = field(default_factory=list)
    inodes: dict[str, int] = field(default_factory=dict)


def carry_over(old: Path, new: Path, *, written: Written, carried: Carried) -> None:
    """Put into `new` what lies in `old` and is not ours, or was edited since: a link where that can be.

    A file of the user keeps its name. Where the new folder has something else of that name, and for an edited
    file of ours, the old one is kept beside it as NAME.kept. Called again after the folders were exchanged,
    it takes what has come into the old one meanwhile.

    Raises:
        InputRefused: something in `old` cannot be taken along, such as a mounted file system.
        OSError: it cannot be read or linked.
    """
    ours = {file.path: file for file in written.files}
    known = {*ours, *written.links, *written.unhashed}
    # Those of the user first: they keep their names, and a NAME.kept of an earlier run is one of them.
    for name, path in sorted(_entries(old), key=lambda entry: entry[0] in known):
        inode = path.lstat().st_ino
        if carried.inodes.get(name) == inode:
            continue
        carried.inodes[name] = inode
        if _is_as_written(path, ours.get(name), written, name=name):
            continue
        target = _place(new, name)
        if os.path.lexists(target) and _is_equal(path, target):
            continue
        if name in known or os.path.lexists(target) or target != new / name:
            target = _free(target if target != new / name else target.with_name(target.name + KEPT))
            carried.kept.append(target.relative_to(new).as_posix())
        _make_parents(target, old=old, new=new)
        _link(path, target)
    _carry_empty_folders(old, new, known=known)


def _is_as_written(path: Path, file: FileRecord | None, written: Written, *, name: str) -> bool:
    """Whether a file or link is ours, and as we left it: by its bytes, since times can be set back."""
    if name in written.unhashed:
        return True
    if path.is_symlink():
        return written.links.get(name) == str(path.readlink())
    if file is None or not stat.S_ISREG(path.lstat().st_mode) or path.stat().st_size != file.size:
        return False
    return _hashed(name, path).sha256 == file.sha256


def _is_equal(first: Path, second: Path) -> bool:
    if first.is_symlink() or second.is_symlink():
        return first.is_symlink() and second.is_symlink() and first.readlink() == second.readlink()
    return first.is_file() and second.is_file() and filecmp.cmp(first, second, shallow=False)


def _place(new: Path, name: str) -> Path:
    """Where `name` goes in `new`; below FOLDER.kept where something else than a folder is there."""
    place = new
    *parents, last = PurePosixPath(name).parts
    for part in parents:
        place = place / part
        if place.is_symlink() or (os.path.lexists(place) and not place.is_dir()):
            place = place.with_name(place.name + KEPT)
    return place / last


def _free(path: Path) -> Path:
    free, number = path, 0
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.name}.{number}")
    return free


def _make_parents(target: Path, *, old: Path, new: Path) -> None:
    """Make the folders of a carried file, each with the mode and times of the one it was in."""
    for parent in reversed(target.relative_to(new).parents):
        folder = new / parent
        if not folder.is_dir():
            folder.mkdir()
            if (old / parent).is_dir():
                shutil.copystat(old / parent, folder)


def _carry_empty_folders(old: Path, new: Path, *, known: set[str]) -> None:
    """Make the folders of the user that hold nothing; one that is gone with our files was ours."""
    held = {parent.as_posix() for name in known for parent in PurePosixPath(name).parents}
    for root, _folders, _names in os.walk(old):
        name = Path(root).relative_to(old).as_posix()
        if name not in held and not os.path.lexists(new / name):
            _make_parents(_place(new, f"{name}/x"), old=old, new=new)


def _link(path: Path, target: Path) -> None:
    try:
        os.link(path, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _CANNOT_LINK:
            raise
        if not path.is_symlink() and not path.is_file():
            raise InputRefused(
                f"{path}: is neither a file nor a link, and cannot be kept; remove it"
            ) from error
        shutil.copy2(path, target, follow_symlinks=False)
        if not target.is_symlink():
            with target.open("rb") as file:
                os.fsync(file.fileno())


def _entries(folder: Path) -> Iterator[tuple[str, Path]]:
    """Everything but folders, by name; a link to a folder is a link. An unreadable folder is an error."""

    def fail(error: OSError) -> None:
        raise error

    for root, folders, names in os.walk(folder, onerror=fail):
        here = Path(root)
        if here != folder and os.path.ismount(here):
            raise InputRefused(
                f"{here}: another file system is mounted there; unmount it, or give another --out"
            )
        folders.sort()
        links = [name for name in folders if (here / name).is_symlink()]
        for path in (here / name for name in sorted([*names, *links])):
            if path != folder / RECORD_NAME:
                yield path.relative_to(folder).as_posix(), path


def _hashed(name: str, path: Path) -> FileRecord:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileRecord(path=name, size=os.fstat(file.fileno()).st_size, sha256=digest)


def _parsed(folder: Path) -> Written:
    path = folder / RECORD_NAME
    try:
        return Written.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise InputRefused(
            f"{path}: is not the record of what tpforge wrote there ({error.errors()[0]['msg']}), so --force "
            "does not replace the folder; give another --out, or remove the folder yourself"
        ) from error


def _noted(folder: Path) -> tuple[FileRecord, ...]:
    return _parsed(folder).files if (folder / RECORD_NAME).is_file() else ()


def _listed_by_engines(folder: Path) -> Iterator[FileRecord]:
    for path in sorted(folder.rglob(_ENGINE)):
        yield from _listed(path, folder)


def _listed(engine_json: Path, folder: Path) -> Iterator[FileRecord]:
    """The files that an engine.json lists, by their path relative to `folder`; none when it is not one."""
    prefix = engine_json.parent.relative_to(folder)
    try:
        value: Any = json.loads(engine_json.read_bytes())
        files = [FileRecord.model_validate(one) for one in value["files"]]
    except (ValueError, KeyError, TypeError):
        return
    for file in files:
        yield file.model_copy(update={"path": (prefix / file.path).as_posix()})


def _write(folder: Path, written: Written) -> None:
    text = written.model_dump_json(indent=1, exclude_defaults=True) + "\n"
    partial = folder / f"{RECORD_NAME}.partial"
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / RECORD_NAME)
