"""How long common commands take from a cold process, whose start and imports count; files in the page cache.

Run it as ``python -m benchmarks.start_up [--runs 9]``. In each round every command runs once, so that a
machine whose speed drifts favours none. What a command does is little here, a table, a plan, a small
checkpoint, but for the last two: the plans that take longest.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.tables import head, line, spread
from tests.support.tiny import write_tiny_llama

COMMANDS: tuple[tuple[str, ...], ...] = (
    ("--help",),
    ("build", "--help"),
    ("gpus",),
    ("formats",),
    ("versions",),
    ("config",),
    ("status",),
    ("engines", "list"),
    ("inspect", "MODEL", "--tp", "2"),
    ("plan", "llama-3.1-8b", "--gpu", "h100-sxm"),
    # The asks with most to weigh: options of experts on a rack, and kinds of GPUs with queues at each.
    ("plan", "glm-4.5", "--gpu", "gb300", "--gpus", "72"),
    ("gpus", "--model", "llama-3.3-70b", "--rate", "2", "--ttft-ms", "300", "--tpot-ms", "25"),
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9)
    num_runs: int = parser.parse_args().runs
    with tempfile.TemporaryDirectory(prefix="tpforge-bench-") as folder:
        write_tiny_llama(Path(folder) / "MODEL")
        programs = {"python -c pass": [sys.executable, "-c", "pass"]}
        for words in COMMANDS:
            programs[" ".join(("tpforge", *words))] = [sys.executable, "-m", "tpforge", *words]
        times: dict[str, list[float]] = {name: [] for name in programs}
        for number in range(num_runs + 1):
            for name, command in programs.items():
                seconds = _seconds(command, folder=folder)
                if number:  # The first round brings files into the page cache.
                    times[name].append(seconds)
    print(head("command", "seconds", "n"))
    for name, values in times.items():
        print(line(f"`{name}`", spread(values, ".2f"), str(num_runs)))


def _seconds(command: list[str], *, folder: str) -> float:
    """With no server, no engine and no configuration of a user's in sight."""
    homes = dict.fromkeys(("HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME"), folder)
    begun = time.perf_counter()
    subprocess.run(
        command,
        cwd=folder,
        check=True,
        env={**os.environ, **homes},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
