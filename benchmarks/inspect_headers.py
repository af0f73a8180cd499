"""How long `tpforge inspect` takes on a checkpoint of 70 billion parameters, from a cold process.

    python -m benchmarks.inspect_headers [--runs 9]

The checkpoint has true headers and holes for weights, 141 GB that take no disk. Each run is a new process,
whose start and imports count. The files' headers are in the page cache.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.checkpoints.sparse import LLAMA_70B, write_sparse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9)
    runs: int = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        model = write_sparse(Path(folder), LLAMA_70B)
        for name, command in (
            ("an empty Python process", [sys.executable, "-c", "pass"]),
            ("tpforge --version", [sys.executable, "-m", "tpforge", "--version"]),
            ("tpforge inspect --tp 8", [sys.executable, "-m", "tpforge", "inspect", str(model), "--tp", "8"]),
        ):
            times = [_seconds(command) for _ in range(runs)]
            print(
                f"{name:24} median {statistics.median(times):.2f} s  "
                f"[{min(times):.2f}, {max(times):.2f}]  n={runs}  measured"
            )


def _seconds(command: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
