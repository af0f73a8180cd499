"""The console entry `tpforge`, also `python -m tpforge`.

It does not parse: it makes sure that the packages are ours, then hands over to `scripts.main`.
"""

from __future__ import annotations

import sys

from tpforge._origin import make_importable
from tpforge.errors import EnvironmentUnusable


def main() -> int:
    """Run the command line of this process; the exit status."""
    try:
        make_importable()
    except EnvironmentUnusable as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    from scripts.main import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
