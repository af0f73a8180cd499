"""Measures three ways to bring the bytes of a mapped file into a new one, hashing them on the way.

It is why builders/conversion/writer.py writes from the mapped file: copy_file_range must be followed by a
read for the hash all the same. Run it as: python -m benchmarks.copy_range [--rounds N] [--folder DIR]
"""

from __future__ import annotations

import argparse
import hashlib
import mmap
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.convert import print_machine

_BYTES = 1 << 30
_BLOCK = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--folder", type=Path, default=None, help="where to work; by default a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="tpforge-bench-") as folder:
        source = Path(folder) / "source"
        block = os.urandom(_BLOCK)
        with source.open("wb") as file:
            for _ in range(_BYTES // _BLOCK):
                file.write(block)
            os.fsync(file.fileno())
        ways: dict[str, Callable[[Path, Path], None]] = {
            "hash and write from the mapped file": write_mapped,
            "copy_file_range, hash the mapped file": copy_range,
            "copy_file_range, no hash": lambda source, out: copy_range(source, out, hashes=False),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        # The first round is not counted: it makes the machine's memory available.
        for number in range(arguments.rounds + 1):
            order = list(ways.items())
            # Each way stands first once: what follows on a deletion finds memory at hand.
            for name, way in order[number % 3 :] + order[: number % 3]:
                out = Path(folder) / "out"
                started = time.perf_counter()
                way(source, out)
                if number:
                    seconds[name].append(time.perf_counter() - started)
                out.unlink()
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"{name:40} {median:.2f} s a GiB  [{min(values):.2f}, {max(values):.2f}]  n={len(values)}")
    print_machine("copy_range")


@contextmanager
def mapped_bytes(path: Path) -> Iterator[memoryview]:
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped,
        memoryview(mapped) as view,
    ):
        yield view


def write_mapped(source: Path, out: Path) -> None:
    digest = hashlib.sha256()
    with mapped_bytes(source) as view, out.open("wb", buffering=0) as write:
        for start in range(0, _BYTES, _BLOCK):
            digest.update(view[start : start + _BLOCK])
            write.write(view[start : start + _BLOCK])


def copy_range(source: Path, out: Path, *, hashes: bool = True) -> None:
    digest = hashlib.sha256()
    with source.open("rb") as read, mapped_bytes(source) as view, out.open("wb", buffering=0) as write:
        for start in range(0, _BYTES, _BLOCK):
            stop = start
            while stop < start + _BLOCK:
                stop += os.copy_file_range(read.fileno(), write.fileno(), start + _BLOCK - stop)
            if hashes:
                digest.update(view[start : start + _BLOCK])


if __name__ == "__main__":
    main()
