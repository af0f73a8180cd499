"""Engines over a network: push a folder to a URL, pull one from it; resumable, parallel, proven by hashes.

A pushed engine is a plain copy of the folder with ``transfer.json`` beside engine.json: every file with its
size and SHA-256. The digest of that file names the whole. It makes no engine and does not run one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from engines.store import MANIFEST_NAME, read_manifest
from engines.transfer.hashing_reader import HashingReader
from engines.transfer.index import (
    INDEX_NAME,
    UNLISTED,
    Index,
    belonging,
    index_of,
    index_there,
    path_problem,
    read_index,
)
from engines.transfer.remote import Remote
from engines.transfer.threads import Pace, TimeLimit, in_threads
from tpforge.errors import EnvironmentUnusable, InputRefused, VerificationFailed
from tpforge.manifest import FileRecord, Manifest
from tpforge.outputs.atomic import atomic_folder, hash_file, os_errors, refuse_existing
from tpforge.outputs.written import is_beside
from tpforge.progress import Progress
from tpforge.units import format_bytes

NUM_PARALLEL = 4
NUM_TRIES = 3
_NO_LIMIT_S = 1e9
_PART_FLAGS = os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_NOT_BUILT = "the files are not those that were built"
_NOT_PUSHED = "the engine is not what was pushed"
Result = TypeVar("Result")


@dataclass(frozen=True)
class Transfer:
    """What was moved, and what was there already; `digest` names the engine."""

    digest: str
    num_files: int
    num_bytes: int
    num_moved_bytes: int


def push(
    engine_dir: Path, remote: Remote, *, progress: Progress, num_parallel: int = NUM_PARALLEL
) -> Transfer:
    """Put an engine at a URL; what an earlier push put there with equal hashes is not sent again.

    A file is proven against engine.json while it is sent, from one reading. An altered one may therefore
    reach the URL; the index there does not name it and stays unfinished, so that no pull takes it.

    Raises:
        InputRefused: it is no engine.
        VerificationFailed: its files are not those that were built.
        EnvironmentUnusable: the URL cannot be reached or written.
    """
    manifest = read_manifest(engine_dir)
    built = {record.path: record for record in manifest.files}
    names = _names(engine_dir, manifest, progress)
    sizes = {name: (engine_dir / name).stat().st_size for name in names}
    if problems := _wrong_sizes(built.values(), sizes):
        raise _failed(engine_dir, _NOT_BUILT, problems)
    done = {record.path: record for record in _unchanged(engine_dir, remote, built, sizes)}
    left = [name for name in names if name not in done]
    lock = threading.Lock()

    def send(name: str, _check: Callable[[], None]) -> None:
        record = _send(remote, engine_dir, name, sizes[name])
        if built.get(name, record) != record:
            raise VerificationFailed(
                f"{name}: SHA-256 {record.sha256}, engine.json says {built[name].sha256}"
            )
        if (size := remote.size(name)) != record.size:
            raise EnvironmentUnusable(f"{remote.url}/{name}: {size} bytes arrived of {record.size}")
        with lock:
            done[name] = record
            remote.write_bytes(INDEX_NAME, index_of(done.values(), complete=False).to_bytes())
            progress(f"pushed {name} ({format_bytes(record.size)}), {len(done)} of {len(names)} files")

    if left:
        remote.write_bytes(INDEX_NAME, index_of(done.values(), complete=False).to_bytes())
    large_first = sorted(left, key=lambda name: sizes[name], reverse=True)
    # Without a limit: what is sent is the user's own, and may take its time.
    limit = TimeLimit(total_s=_NO_LIMIT_S)
    if problems := in_threads(send, large_first, num_parallel=num_parallel, limit=limit, where=remote.url):
        raise _failed(engine_dir, _NOT_BUILT, problems)
    index = index_of(done.values(), complete=True)
    remote.write_bytes(INDEX_NAME, index.to_bytes())
    return _transfer(index, moved=[done[name] for name in left])


def pull(
    remote: Remote,
    out: Path,
    *,
    progress: Progress,
    digest: str | None = None,
    force: bool = False,
    num_parallel: int = NUM_PARALLEL,
    limit: TimeLimit | None = None,
) -> Transfer:
    """Get an engine to `out`, which appears only when every byte is proven; a broken pull is gone on with.

    `digest` is what `push` said; without it, the files are proven against the index at the URL alone. Only
    files that engine.json lists are asked for and written, and what was measured of the engine.

    Raises:
        InputRefused: there is no engine, its push was not finished, or `out` exists and `force` is not given.
        VerificationFailed: a file is truncated or altered, or it is not the engine that `digest` names.
        EnvironmentUnusable: the URL cannot be reached, stalls, or takes longer than `limit`; the disk cannot
            hold it.
    """
    refuse_existing(out, force=force)
    limit = limit or TimeLimit()
    index = _read_index(remote, limit)
    if digest is not None and index.digest != digest.removeprefix("sha256:"):
        raise VerificationFailed(
            f"{remote.url}: is engine sha256:{index.digest}, expected sha256:{digest.removeprefix('sha256:')}"
        )
    with _staging(out) as staging:
        _refuse_full_disk(staging, index)
        moved: list[FileRecord] = []

        def fetch(record: FileRecord, check: Callable[[], None]) -> None:
            if _fetch(remote, record, staging, check):
                moved.append(record)
                progress(f"pulled {record.path} ({format_bytes(record.size)})")

        def fetch_all(records: Iterable[FileRecord]) -> None:
            ordered = sorted(records, key=lambda record: record.size, reverse=True)
            if problems := in_threads(
                fetch, ordered, num_parallel=num_parallel, limit=limit, where=remote.url
            ):
                raise _failed(remote.url, _NOT_PUSHED, problems)

        # What is to be written is known from engine.json, so that comes first and is proven alone.
        fetch_all(record for record in index.files if record.path == MANIFEST_NAME)
        manifest = read_manifest(staging)
        if problems := _not_as_built(manifest, index):
            raise _failed(remote.url, _NOT_BUILT, problems)
        wanted = belonging(index.files, manifest)
        for record in sorted({*index.files} - {*wanted}, key=lambda record: record.path):
            progress(f"left out {record.path}: engine.json does not list it")
        fetch_all(record for record in wanted if record.path != MANIFEST_NAME)
        with atomic_folder(out, force=force) as folder:
            for record in wanted:
                target = folder / record.path
                target.parent.mkdir(parents=True, exist_ok=True)
                (staging / record.path).rename(target)
    shutil.rmtree(staging_folder(out), ignore_errors=True)
    return _transfer(index, moved=moved, files=wanted)


def staging_folder(out: Path) -> Path:
    """Where a pull keeps what it has until all of it is there."""
    return out.absolute().parent / f".{out.name}.pull"


def _read_index(remote: Remote, limit: TimeLimit) -> Index:
    """The index, within the limit: a server may keep a reader waiting for its first byte."""
    found: list[Index] = []

    def read(there: Remote, _check: Callable[[], None]) -> None:
        found.append(read_index(there))

    in_threads(read, [remote], num_parallel=1, limit=limit, where=remote.url)
    return found[0]


def _unchanged(
    engine_dir: Path, remote: Remote, built: Mapping[str, FileRecord], sizes: Mapping[str, int]
) -> Iterator[FileRecord]:
    """The files that are there already; one that engine.json does not list is read to know its hash."""
    for there in index_there(remote):
        if there.size != sizes.get(there.path) or remote.size(there.path) != there.size:
            continue
        here = built.get(there.path) or hash_file(engine_dir / there.path, relative_to=engine_dir)
        if here == there:
            yield there


def _send(remote: Remote, engine_dir: Path, name: str, size: int) -> FileRecord:
    """Send a file, and hash the bytes as they go."""

    def send() -> FileRecord:
        with os_errors(engine_dir / name), (engine_dir / name).open("rb") as file:
            source = HashingReader(file)
            remote.write(name, source, size=size)
            return FileRecord(path=name, size=source.size, sha256=source.sha256)

    return _retry(send)


def _fetch(remote: Remote, record: FileRecord, staging: Path, check: Callable[[], None]) -> bool:
    """Get one file, from where an earlier pull broke off; whether anything was moved."""
    final = staging / record.path
    if final.is_file():
        if hash_file(final, relative_to=staging) == record:
            return False
        final.unlink()
    final.parent.mkdir(parents=True, exist_ok=True)
    part = final.with_name(f"{final.name}.part")
    went_on = part.exists()
    found = _append(remote, record, part, check)
    if found != record and went_on:  # What was there may be of an older engine.
        part.unlink()
        found = _append(remote, record, part, check)
    if found == record:
        part.replace(final)
        return True
    part.unlink()  # What is wrong is not gone on with.
    if found.size != record.size:
        raise VerificationFailed(f"{record.path}: {found.size} bytes, expected {record.size}")
    raise VerificationFailed(f"{record.path}: SHA-256 {found.sha256}, expected {record.sha256}")


def _append(remote: Remote, record: FileRecord, part: Path, check: Callable[[], None]) -> FileRecord:
    """Get what is missing of a file, hashing what is there and what comes; what it is then.

    No more is taken than its size and one byte, which says that the file is another.
    """
    with os_errors(part), os.fdopen(os.open(part, _PART_FLAGS, 0o644), "r+b") as file:
        file.seek(0, os.SEEK_END)
        if file.tell() > record.size:
            file.truncate(0)
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256")

        def go_on() -> None:
            pace = Pace(record.path)
            for chunk in remote.read(record.path, start=file.tell()):
                check()
                taken = chunk[: record.size + 1 - file.tell()]
                file.write(taken)
                digest.update(taken)
                if file.tell() > record.size:
                    return
                pace.add(len(chunk))

        if file.tell() < record.size:
            _retry(go_on)
        return FileRecord(path=record.path, size=file.tell(), sha256=digest.hexdigest())


def _wrong_sizes(built: Iterable[FileRecord], sizes: Mapping[str, int]) -> list[str]:
    """What is missing or has another size, before anything is sent."""
    return sorted(
        f"{record.path}: missing"
        if record.path not in sizes
        else f"{record.path}: {sizes[record.path]} bytes, engine.json says {record.size}"
        for record in built
        if sizes.get(record.path) != record.size
    )


def _not_as_built(manifest: Manifest, index: Index) -> list[str]:
    """Where the index, which the files were proven against, is not what engine.json says."""
    pushed = {record.path: record for record in index.files}
    problems = []
    for record in manifest.files:
        if (found := pushed.get(record.path)) != record:
            said = f"SHA-256 {found.sha256}" if found else "missing"
            problems.append(f"{record.path}: {said}, engine.json says {record.sha256}")
    return sorted(problems)


def _failed(where: object, headline: str, problems: Iterable[str]) -> VerificationFailed:
    return VerificationFailed("\n  ".join([f"{where}: {headline}:", *problems]))


def _retry(action: Callable[[], Result]) -> Result:
    """Try again what a network broke off."""
    for _ in range(NUM_TRIES - 1):
        with suppress(EnvironmentUnusable):
            return action()
    return action()


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """The staging folder, held against a second pull."""
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


def _refuse_full_disk(staging: Path, index: Index) -> None:
    have = sum(path.stat().st_size for path in staging.rglob("*") if path.is_file())
    needed = sum(record.size for record in index.files) - have
    free = shutil.disk_usage(staging).free
    if needed > free:
        raise EnvironmentUnusable(
            f"{staging.parent}: {format_bytes(free)} free, the engine needs {format_bytes(needed)} more"
        )


def _names(engine_dir: Path, manifest: Manifest, progress: Progress) -> list[str]:
    """The names that are sent, sorted: what engine.json lists, and what was measured of the engine.

    Raises:
        InputRefused: engine.json lists a name that no pull would take.
    """
    listed = {*UNLISTED, *(record.path for record in manifest.files)}
    if problems := sorted(f"{name}: {problem}" for name in listed if (problem := path_problem(name))):
        raise InputRefused.listing(f"{engine_dir}: engine.json lists files no engine can hold:", problems)
    there = {path.relative_to(engine_dir).as_posix() for path in engine_dir.rglob("*") if path.is_file()}
    for name in sorted(name for name in there - listed if not is_beside(name)):
        progress(f"left out {name}: engine.json does not list it")
    return sorted(there & listed)


def _transfer(
    index: Index, *, moved: list[FileRecord], files: Iterable[FileRecord] | None = None
) -> Transfer:
    held = tuple(index.files if files is None else files)
    return Transfer(
        digest=index.digest,
        num_files=len(held),
        num_bytes=sum(record.size for record in held),
        num_moved_bytes=sum(record.size for record in moved),
    )
