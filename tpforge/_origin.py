"""Refuses to run when a package such as `builders` is not the one that was installed with tpforge.

Their names are common: a folder of the same name in the current directory, or another distribution, may
come first on the import path. It imports none of them: it only asks where they would come from.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from tpforge.errors import EnvironmentUnusable

PACKAGES = ("builders", "engines", "scripts", "triton_repo")


def refuse_shadowed(root: Path | None = None) -> None:
    """Raise unless every package of `PACKAGES` comes from `root`, by default the folder that holds tpforge.

    Raises:
        EnvironmentUnusable: a package is missing, or another folder of its name is found first.
    """
    expected = root if root is not None else Path(__file__).resolve().parent.parent
    problems = []
    for name in PACKAGES:
        found = _folder(name)
        if found is None:
            problems.append(f"{name}: not found beside tpforge in {expected}; install tpforge again")
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
