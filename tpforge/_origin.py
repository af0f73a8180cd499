"""Finds the packages that belong to tpforge, and refuses to run when another of their name would be imported.

Their names are common. A checkout has them beside tpforge, and a folder of the same name in the current
directory may come first there; a wheel carries them inside tpforge. It imports none of them.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

from tpforge.errors import EnvironmentUnusable

PACKAGES = ("builders", "engines", "scripts", "triton_repo")
PARTS = Path(__file__).resolve().parent / "_parts"
"""Where a wheel carries them, none at the top of site-packages; a checkout has no such folder."""


def is_checkout() -> bool:
    """Whether this is a checkout, installed or not, and not what a wheel installed."""
    return not PARTS.is_dir()


def make_importable() -> None:
    """Let the packages be imported, those of a wheel before any other of their name.

    Raises:
        EnvironmentUnusable: a package is missing, or another folder of its name is found first.
    """
    if is_checkout():
        refuse_shadowed()
        return
    if str(PARTS) not in sys.path:
        sys.path.insert(0, str(PARTS))
    refuse_shadowed(PARTS)


def refuse_shadowed(root: Path | None = None) -> None:
    """Raise unless every package of `PACKAGES` comes from `root`, by default the folder that holds tpforge.

    Raises:
        EnvironmentUnusable: a package is missing, or another folder of its name is found first.
    """
    expected = root if root is not None else PARTS.parents[1]
    problems = []
    for name in PACKAGES:
        found = _folder(name)
        if found is None:
            problems.append(f"{name}: not found in {expected}; install tpforge again")
        elif found != expected / name:
            problems.append(
                f"{name}: found in {found}, which hides tpforge's own in {expected / name}; "
                "run from another directory, or rename or uninstall the other one"
            )
    if problems:
        raise EnvironmentUnusable("\n  ".join(["packages of tpforge are hidden or missing:", *problems]))


def _folder(name: str) -> Path | None:
    """The folder that `import name` would take, a namespace folder included; None when there is none."""
    try:
        spec = find_spec(name)
    except ValueError:  # sys.modules holds something of this name that was not imported from a file
        return None
    if spec is None or not spec.submodule_search_locations:
        return None if spec is None or spec.origin is None else Path(spec.origin).resolve()
    return Path(next(iter(spec.submodule_search_locations))).resolve()
