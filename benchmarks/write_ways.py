"""Measures ways to bring the bytes of a mapped file into a new one until they are on the disk; their cost.

It is why builders/conversion/hashed_file.py writes past the page cache, and hashes nothing.
Run it as: python -m benchmarks.write_ways [--rounds N] [--folder DIR]
"""

from __future__ import annotations

import argparse
import mmap
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.convert import print_machine

_BYTES = 1 << 30
_BLOCK = 1 << 22
_STARTS = range(0, _BYTES, _BLOCK)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--folder", type=Path, default=None, help="where to work; by default a temporary one")
    arguments = parser.parse_args()
    ways: dict[str, Callable[[Path, memoryview], None]] = {
        "write": through_the_cache,
        "write, begun early every 32 MiB": through_the_cache_early,
        "copy_file_range": by_copy_file_range,
        "O_DIRECT, two at a time": past_the_cache,
    }
    wall: dict[str, list[float]] = {name: [] for name in ways}
    processor: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="tpforge-bench-") as folder:
        source, out = Path(folder) / "source", Path(folder) / "out"
        write_source(source)
        with source.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            # The first round is not counted: it makes the machine's memory available.
            for number in range(arguments.rounds + 1):
                order = list(ways.items())
                shift = number % len(order)
                # Each way stands first once: what follows on a deletion finds memory at hand.
                for name, way in order[shift:] + order[:shift]:
                    started, used = time.perf_counter(), time.process_time()
                    with memoryview(mapped) as view:
                        way(out, view)
                    if number:
                        wall[name].append(time.perf_counter() - started)
                        processor[name].append(time.process_time() - used)
                    out.unlink()
    print("| way | a GiB | processor | n |\n|---|---|---|---|")
    for name in ways:
        print(f"| {name} | {spread(wall[name])} | {spread(processor[name])} | {len(wall[name])} |")
    print_machine("write_ways")


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}] s"


def write_source(path: Path) -> None:
    block = os.urandom(_BLOCK)
    with path.open("wb") as file:
        for _ in _STARTS:
            file.write(block)
        os.fsync(file.fileno())


def through_the_cache(out: Path, view: memoryview, *, early_bytes: int = 0) -> None:
    with out.open("wb", buffering=0) as file:
        for start in _STARTS:
            file.write(view[start : start + _BLOCK])
            if early_bytes and (start + _BLOCK) % early_bytes == 0:
                # On dirty pages this starts writing them out.
                first = start + _BLOCK - early_bytes
                os.posix_fadvise(file.fileno(), first, early_bytes, os.POSIX_FADV_DONTNEED)
        os.fsync(file.fileno())


def through_the_cache_early(out: Path, view: memoryview) -> None:
    through_the_cache(out, view, early_bytes=1 << 25)


def by_copy_file_range(out: Path, view: memoryview) -> None:
    with (out.parent / "source").open("rb") as source, out.open("wb", buffering=0) as file:
        done = 0
        while done < _BYTES:
            done += os.copy_file_range(source.fileno(), file.fileno(), min(_BLOCK, _BYTES - done))
        os.fsync(file.fileno())


def past_the_cache(out: Path, view: memoryview) -> None:
    descriptor = os.open(out, os.O_CREAT | os.O_WRONLY | os.O_DIRECT, 0o644)
    os.ftruncate(descriptor, _BYTES)

    def every_second(first: int) -> None:
        with mmap.mmap(-1, _BLOCK) as buffer:
            for start in _STARTS[first::2]:
                buffer[:] = view[start : start + _BLOCK]
                os.pwrite(descriptor, buffer, start)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(every_second, range(2)))
    os.fsync(descriptor)
    os.close(descriptor)


if __name__ == "__main__":
    main()
