"""Measures where the processor's time of a conversion goes, by what its threads are for, at several tp.

It compares with nothing: `benchmarks.convert` does.
Run it as: python -m benchmarks.convert_profile [--size GB] [--tp 1,4] [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.convert import convert_ours, import_modules, print_machine

KINDS = {
    "hash": "hash input and output",
    "cut": "cut slices into blocks",
    "write": "write blocks",
    "MainThread": "plan, audit, find the code that decides",
}
_TICKS = os.sysconf("SC_CLK_TCK")
Times = dict[int, tuple[str, float, float]]
"""By thread: what it is for, seconds in our code and in the kernel."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=float, default=2.0, help="GB")
    parser.add_argument("--tp", default="1,4", help="separated by commas")
    parser.add_argument("--folder", type=Path, default=None, help="where to work; by default a temporary one")
    parser.add_argument("--child", nargs=2, metavar=("SOURCE", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        run_child(*map(Path, arguments.child), tp=int(arguments.tp))
        return
    from benchmarks.checkpoints import write_checkpoint

    sizes = arguments.tp.split(",")
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="tpforge-bench-") as folder:
        source, out = Path(folder) / "source", Path(folder) / "out"
        num_bytes = write_checkpoint(source, gigabytes=arguments.size)
        found = {}
        for tp in sizes:
            command = [sys.executable, "-m", "benchmarks.convert_profile", "--tp", tp, "--child"]
            done = subprocess.run(
                [*command, str(source), str(out)], check=True, stdout=subprocess.PIPE, text=True
            )
            found[tp] = json.loads(done.stdout)
            shutil.rmtree(out)
    print_table(found, num_bytes=num_bytes)
    print_machine("convert_profile")


def run_child(source: Path, out: Path, *, tp: int) -> None:
    """In a process of its own: convert, and print seconds, all and by kind of thread."""
    import_modules("ours")
    seen, done = Watch(), threading.Event()
    watcher = threading.Thread(target=seen.run, args=(done,))
    watcher.start()
    before, started = read_times({}), time.perf_counter()
    convert_ours(source, out, tp=tp, dtype=None)
    seconds = time.perf_counter() - started
    done.set()
    watcher.join()
    kinds = dict.fromkeys(KINDS, (0.0, 0.0))
    for thread, (name, user, kernel) in seen.times.items():
        kind = next((kind for kind in KINDS if name.startswith(kind)), None)
        if kind is not None:
            _, user_before, kernel_before = before.get(thread, (name, 0.0, 0.0))
            sums = kinds[kind]
            kinds[kind] = (sums[0] + user - user_before, sums[1] + kernel - kernel_before)
    print(json.dumps({"seconds": seconds, "kinds": kinds}))


class Watch:
    """Keeps the last times of every thread, since they are gone with it."""

    def __init__(self) -> None:
        self.times: Times = {}

    def run(self, done: threading.Event) -> None:
        """Look every 10 ms until the end."""
        while not done.wait(0.01):
            self.times |= read_times(self.times)


def read_times(known: Times) -> Times:
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    times = {}
    for entry in Path("/proc/self/task").iterdir():
        thread = int(entry.name)
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        name = names.get(thread) or known.get(thread, ("", 0.0, 0.0))[0]
        times[thread] = (name, int(fields[11]) / _TICKS, int(fields[12]) / _TICKS)
    return times


def print_table(found: dict[str, dict[str, object]], *, num_bytes: int) -> None:
    print(f"| {num_bytes / 1e9:.2f} GB | " + " | ".join(f"tp={tp}" for tp in found) + " |")
    print("|---" * (1 + len(found)) + "|")
    for kind, what in KINDS.items():
        cells = []
        for one in found.values():
            user, kernel = one["kinds"][kind]  # type: ignore[index]
            cells.append(f"{user + kernel:.2f} s, {kernel:.2f} of it in the kernel")
        print(f"| {what} | " + " | ".join(cells) + " |")
    print(
        "| until all is on the disk | "
        + " | ".join(f"{one['seconds']:.2f} s" for one in found.values())
        + " |"
    )


if __name__ == "__main__":
    main()
