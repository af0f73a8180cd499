"""How long `tpforge inspect` takes on a checkpoint of 70 billion parameters, and --deep on one of 2 GB.

    python -m benchmarks.inspect_headers [--runs 9] [--deep GB]

The first has true headers and holes for weights, 141 GB that take no disk; the second is whole. Each run is
a new process, whose start and imports count. What is read is in the page cache.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.checkpoints import write_checkpoint
from benchmarks.tables import head, line, spread
from tests.support.checkpoints.sparse import LLAMA_70B, write_sparse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--deep", type=float, default=2.0, help="GB that are read whole")
    given = parser.parse_args()
    runs: int = given.runs
    with tempfile.TemporaryDirectory() as folder:
        model, whole = write_sparse(Path(folder) / "sparse", LLAMA_70B), Path(folder) / "whole"
        num_bytes = write_checkpoint(whole, gigabytes=given.deep)
        inspect = [sys.executable, "-m", "tpforge", "inspect"]
        print(head("what", "time", "n"))
        for name, command in (
            ("an empty Python process", [sys.executable, "-c", "pass"]),
            ("`tpforge --version`", [sys.executable, "-m", "tpforge", "--version"]),
            ("`tpforge inspect --tp 8`", [*inspect, str(model), "--tp", "8"]),
            (f"`tpforge inspect --deep`, {num_bytes / 1e9:.2f} GB", [*inspect, str(whole), "--deep"]),
        ):
            times = [_seconds(command) for _ in range(runs)]
            print(line(name, spread(times, ".2f", unit="s"), str(runs)), flush=True)


def _seconds(command: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
