"""What `tpforge demo` takes when nothing has changed: it prints the second of two runs.

Run it as ``python -m benchmarks.demo_again [--tp N]``; both runs are in a new folder. The model is fetched
by the first run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile


def main() -> int:
    """The exit status of the run that failed, or 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tp", default="4")
    command = [sys.executable, "-m", "tpforge", "demo", "--tp", parser.parse_args().tp]
    with tempfile.TemporaryDirectory(prefix="tpforge-demo-") as folder:
        first = subprocess.run(command, cwd=folder, check=False, stdout=subprocess.DEVNULL)
        return first.returncode or subprocess.run(command, cwd=folder, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
