"""Engines over a network: push a folder to a URL, pull one from it; resumable, parallel, proven by hashes.

A pushed engine is a plain copy of the folder with ``transfer.json`` beside engine.json: every file with its
size and SHA-256. The digest of that file names the whole. It makes no engine and does not run one.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, TypeVar

from pydantic import ValidationError

from engines.hashing_reader import HashingReader
from engines.remote import Remote
from engines.store import MANIFEST_NAME, read_manifest
from tpforge.atomic import atomic_folder, hash_file, os_errors, refuse_existing
from tpforge.errors import EnvironmentUnusable, InputRefused, VerificationFailed
from tpforge.manifest import FileRecord, Manifest
from tpforge.progress import Progress
from tpforge.records import Record
from tpforge.units import format_bytes
from tpforge.written import is_beside

INDEX_NAME = "transfer.json"
NUM_PARALLEL = 4
NUM_TRIES = 3
_NOT_BUILT = "the files are not those that were built"
Item = TypeVar("Item")
Result = TypeVar("Result")


class Index(Record):
    """transfer.json: the files at a URL; while `complete` is false, those that a push put there so far."""

    schema_version: Literal[1] = 1
    complete: bool
    files: tuple[FileRecord, ...]

    def to_bytes(self) -> bytes:
        """Equal indexes give equal bytes."""
        return (self.model_dump_json(indent=2) + "\n").encode()

    @property
    def digest(self) -> str:
        """SHA-256 of the index: it stands for every byte of the engine."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


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
    names = _names(engine_dir)
    sizes = {name: (engine_dir / name).stat().st_size for name in names}
    if problems := _wrong_sizes(built.values(), sizes):
        raise _failed(engine_dir, _NOT_BUILT, problems)
    done = {record.path: record for record in _unchanged(engine_dir, remote, built, sizes)}
    left = [name for name in names if name not in done]
    lock = threading.Lock()

    def send(name: str) -> None:
        record = _send(remote, engine_dir, name, sizes[name])
        if built.get(name, record) != record:
            raise VerificationFailed(
                f"{name}: SHA-256 {record.sha256}, engine.json says {built[name].sha256}"
            )
        if (size := remote.size(name)) != record.size:
            raise EnvironmentUnusable(f"{remote.url}/{name}: {size} bytes arrived of {record.size}")
        with lock:
            done[name] = record
            remote.write_bytes(INDEX_NAME, _index(done.values(), complete=False).to_bytes())
            progress(f"pushed {name} ({format_bytes(record.size)}), {len(done)} of {len(names)} files")

    if left:
        remote.write_bytes(INDEX_NAME, _index(done.values(), complete=False).to_bytes())
    large_first = sorted(left, key=lambda name: sizes[name], reverse=True)
    if problems := _each(send, large_first, num_parallel=num_parallel):
        raise _failed(engine_dir, _NOT_BUILT, problems)
    index = _index(done.values(), complete=True)
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
) -> Transfer:
    """Get an engine to `out`, which appears only when every byte is proven; a broken pull is gone on with.

    `digest` is what `push` said; without it, the files are proven against the index at the URL alone.

    Raises:
        InputRefused: there is no engine, its push was not finished, or `out` exists and `force` is not given.
        VerificationFailed: a file is truncated or altered, or it is not the engine that `digest` names.
        EnvironmentUnusable: the URL cannot be reached, or the disk cannot hold it.
    """
    refuse_existing(out, force=force)
    index = read_index(remote)
    if digest is not None and index.digest != digest.removeprefix("sha256:"):
        raise VerificationFailed(
            f"{remote.url}: is engine sha256:{index.digest}, expected sha256:{digest.removeprefix('sha256:')}"
        )
    with _staging(out) as staging:
        _refuse_full_disk(staging, index)
        moved: list[FileRecord] = []

        def fetch(record: FileRecord) -> None:
            if _fetch(remote, record, staging):
                moved.append(record)
                progress(f"pulled {record.path} ({format_bytes(record.size)})")

        ordered = sorted(index.files, key=lambda record: record.size, reverse=True)
        if problems := _each(fetch, ordered, num_parallel=num_parallel):
            raise _failed(remote.url, "the engine is not what was pushed", problems)
        if problems := _not_as_built(read_manifest(staging), index):
            raise _failed(remote.url, _NOT_BUILT, problems)
        with atomic_folder(out, force=force) as folder:
            for record in index.files:
                target = folder / record.path
                target.parent.mkdir(parents=True, exist_ok=True)
                (staging / record.path).rename(target)
    shutil.rmtree(staging_folder(out), ignore_errors=True)
    return _transfer(index, moved=moved)


def read_index(remote: Remote) -> Index:
    """The index at a URL.

    Raises:
        InputRefused: there is none, it is broken, names a file outside, or its push was not finished.
    """
    if remote.size(INDEX_NAME) is None:
        raise InputRefused(
            f"{remote.url}: holds no {INDEX_NAME}; expected an engine that `tpforge engines push` put there"
        )
    data = b"".join(remote.read(INDEX_NAME))
    try:
        index = Index.model_validate_json(data)
    except ValidationError as error:
        raise InputRefused(
            f"{remote.url}/{INDEX_NAME}: is not an index of an engine: {error.errors()[0]['msg']}"
        ) from error
    outside = [record.path for record in index.files if not _is_inside(record.path)]
    if outside:
        raise InputRefused.listing(f"{remote.url}/{INDEX_NAME}: names files outside of the engine:", outside)
    if not index.complete:
        raise InputRefused(
            f"{remote.url}: its push was not finished ({len(index.files)} files are there); push it again"
        )
    if MANIFEST_NAME not in {record.path for record in index.files}:
        raise InputRefused(f"{remote.url}: its index has no {MANIFEST_NAME}, so it is no engine")
    return index


def staging_folder(out: Path) -> Path:
    """Where a pull keeps what it has until all of it is there."""
    return out.absolute().parent / f".{out.name}.pull"


def _unchanged(
    engine_dir: Path, remote: Remote, built: Mapping[str, FileRecord], sizes: Mapping[str, int]
) -> Iterator[FileRecord]:
    """The files that are there already; one that engine.json does not list is read to know its hash."""
    for there in _index_there(remote):
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


def _fetch(remote: Remote, record: FileRecord, staging: Path) -> bool:
    """Get one file, from where an earlier pull broke off; whether anything was moved."""
    final = staging / record.path
    if final.is_file():
        if hash_file(final, relative_to=staging) == record:
            return False
        final.unlink()
    final.parent.mkdir(parents=True, exist_ok=True)
    part = final.with_name(f"{final.name}.part")
    went_on = part.exists()
    found = _append(remote, record, part)
    if found != record and went_on:  # What was there may be of an older engine.
        part.unlink()
        found = _append(remote, record, part)
    if found == record:
        part.replace(final)
        return True
    part.unlink()  # What is wrong is not gone on with.
    if found.size != record.size:
        raise VerificationFailed(f"{record.path}: {found.size} bytes, expected {record.size}")
    raise VerificationFailed(f"{record.path}: SHA-256 {found.sha256}, expected {record.sha256}")


def _append(remote: Remote, record: FileRecord, part: Path) -> FileRecord:
    """Get what is missing of a file, hashing what is there and what comes; what it is then."""
    with os_errors(part), part.open("a+b") as file:
        if file.tell() > record.size:
            file.truncate(0)
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256")

        def go_on() -> None:
            for chunk in remote.read(record.path, start=file.tell()):
                file.write(chunk)
                digest.update(chunk)

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


def _each(action: Callable[[Item], None], items: Iterable[Item], *, num_parallel: int) -> list[str]:
    """Do all, in their order; the verifications that failed. Another error calls off the rest."""
    problems = []
    with ThreadPoolExecutor(num_parallel) as pool:
        pending = [pool.submit(action, item) for item in items]
        try:
            for future in pending:
                try:
                    future.result()
                except VerificationFailed as error:
                    problems.append(str(error))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return sorted(problems)


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """The staging folder, held against a second pull."""
    folder = staging_folder(out)
    with os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EnvironmentUnusable(f"{out}: another tpforge pulls it; wait for it to end") from None
        yield folder
    finally:
        os.close(descriptor)


def _refuse_full_disk(staging: Path, index: Index) -> None:
    have = sum(path.stat().st_size for path in staging.rglob("*") if path.is_file())
    needed = sum(record.size for record in index.files) - have
    free = shutil.disk_usage(staging).free
    if needed > free:
        raise EnvironmentUnusable(
            f"{staging.parent}: {format_bytes(free)} free, the engine needs {format_bytes(needed)} more"
        )


def _names(engine_dir: Path) -> list[str]:
    names = (path.relative_to(engine_dir).as_posix() for path in engine_dir.rglob("*") if path.is_file())
    return sorted(name for name in names if not is_beside(name))


def _index_there(remote: Remote) -> tuple[FileRecord, ...]:
    """What an earlier push put there; nothing when its index is missing or broken."""
    if remote.size(INDEX_NAME) is None:
        return ()
    try:
        return Index.model_validate(json.loads(b"".join(remote.read(INDEX_NAME)))).files
    except (ValueError, ValidationError):
        return ()


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts and "\\" not in name


def _index(records: Iterable[FileRecord], *, complete: bool) -> Index:
    return Index(complete=complete, files=tuple(sorted(records, key=lambda record: record.path)))


def _transfer(index: Index, *, moved: list[FileRecord]) -> Transfer:
    return Transfer(
        digest=index.digest,
        num_files=len(index.files),
        num_bytes=sum(record.size for record in index.files),
        num_moved_bytes=sum(record.size for record in moved),
    )
