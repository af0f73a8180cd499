"""Engines over a network: push a folder to a URL, pull one from it; resumable, parallel, proven by hashes.

A pushed engine is a plain copy of the folder with ``transfer.json`` beside engine.json: every file with its
size and SHA-256. The digest of that file names the whole. It makes no engine and does not run one.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from engines.store import MANIFEST_NAME, read_manifest
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
from engines.transfer.one_file import fetch_file, send_file
from engines.transfer.remote import Remote
from engines.transfer.staging import refuse_full_disk, staging_folder, staging_of
from engines.transfer.threads import TimeLimit, in_threads
from tpforge.errors import EnvironmentUnusable, InputRefused, VerificationFailed
from tpforge.manifest import FileRecord, Manifest
from tpforge.outputs.atomic import atomic_folder, hash_file, refuse_existing
from tpforge.outputs.written import is_beside
from tpforge.progress import Progress
from tpforge.units import format_bytes

NUM_PARALLEL = 4
_NO_LIMIT_S = 1e9
_NOT_BUILT = "the files are not those that were built"
_NOT_PUSHED = "the engine is not what was pushed"


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
        record = send_file(remote, engine_dir, name, sizes[name])
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
    """Get an engine to `out`, which appears only when every byte is proven; a broken pull is resumed.

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
    with staging_of(out) as staging:
        refuse_full_disk(staging, index)
        fetch_all = partial(
            _fetch_all, remote, staging, num_parallel=num_parallel, limit=limit, progress=progress
        )
        # What is to be written is known from engine.json, so that comes first and is proven alone.
        moved = fetch_all([record for record in index.files if record.path == MANIFEST_NAME])
        manifest = read_manifest(staging)
        if problems := _not_as_built(manifest, index):
            raise _failed(remote.url, _NOT_BUILT, problems)
        wanted = belonging(index.files, manifest)
        for record in sorted({*index.files} - {*wanted}, key=lambda record: record.path):
            progress(f"left out {record.path}: engine.json does not list it")
        moved += fetch_all([record for record in wanted if record.path != MANIFEST_NAME])
        with atomic_folder(out, force=force) as folder:
            for record in wanted:
                target = folder / record.path
                target.parent.mkdir(parents=True, exist_ok=True)
                (staging / record.path).rename(target)
    shutil.rmtree(staging_folder(out), ignore_errors=True)
    return _transfer(index, moved=moved, files=wanted)


def _fetch_all(
    remote: Remote,
    staging: Path,
    records: Iterable[FileRecord],
    *,
    num_parallel: int,
    limit: TimeLimit,
    progress: Progress,
) -> list[FileRecord]:
    """Get the files, the largest first; those of which anything was moved."""
    moved: list[FileRecord] = []

    def fetch(record: FileRecord, check: Callable[[], None]) -> None:
        if fetch_file(remote, record, staging, check):
            moved.append(record)
            progress(f"pulled {record.path} ({format_bytes(record.size)})")

    ordered = sorted(records, key=lambda record: record.size, reverse=True)
    if problems := in_threads(fetch, ordered, num_parallel=num_parallel, limit=limit, where=remote.url):
        raise _failed(remote.url, _NOT_PUSHED, problems)
    return moved


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


def _names(engine_dir: Path, manifest: Manifest, progress: Progress) -> list[str]:
    """The names that are sent, sorted: what engine.json lists, and what was measured of the engine.

    Raises:
        InputRefused: engine.json lists a name that no pull would take.
        OSError: a folder of it cannot be read.
    """
    listed = {*UNLISTED, *(record.path for record in manifest.files)}
    if problems := sorted(f"{name}: {problem}" for name in listed if (problem := path_problem(name))):
        raise InputRefused.listing(f"{engine_dir}: engine.json lists files no engine can hold:", problems)
    there = {path.relative_to(engine_dir).as_posix() for path in _files_of(engine_dir)}
    for name in sorted(name for name in there - listed if not is_beside(name)):
        progress(f"left out {name}: engine.json does not list it")
    return sorted(there & listed)


def _files_of(folder: Path) -> Iterator[Path]:
    """Every file below a folder; one that cannot be read is an error, and its files are not "missing"."""

    def fail(error: OSError) -> None:
        raise error

    for root, _, names in os.walk(folder, onerror=fail):
        yield from (path for name in names if (path := Path(root) / name).is_file())


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
