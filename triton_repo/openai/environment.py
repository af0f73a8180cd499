"""Where Dynamo lies, in an environment of its own whose pins never clash with ours, and whether it is whole.

It is shared by all checkouts of the user that pin the same packages. `install` makes it.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from tpforge.errors import EnvironmentUnusable
from tpforge.outputs.places import data_home

LOCK = Path(__file__).with_name("requirements.lock")
"""All of it with its hash. Plain pip fails: ai-dynamo wants aisimulate, whose package is a placeholder."""

REMEDY = "install it with: tpforge setup openai (in a checkout: make setup-openai)"
_STAMP = ".tpforge-complete"


def pinned_version() -> str:
    """The version of Dynamo in the lock."""
    for line in LOCK.read_text(encoding="utf-8").splitlines():
        if line.startswith("ai-dynamo=="):
            return line.split("==")[1].split()[0]
    raise AssertionError(f"{LOCK}: pins no ai-dynamo")


def environment_folder() -> Path:
    """Its folder: another lock or another Python is another environment."""
    key = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]
    python = f"py{sys.version_info.major}{sys.version_info.minor}"
    return data_home() / f"dynamo-{pinned_version()}-{python}-{key}"


def is_complete(folder: Path) -> bool:
    """Whether the environment was made to its end."""
    return (folder / _STAMP).is_file() and (folder / "bin" / "python").exists()


def mark_complete(folder: Path) -> None:
    """Say that it was."""
    (folder / _STAMP).write_bytes(b"")


def dynamo_python() -> Path:
    """The interpreter that has Dynamo.

    Raises:
        EnvironmentUnusable: it is not installed.
    """
    folder = environment_folder()
    if not is_complete(folder):
        raise EnvironmentUnusable(f"NVIDIA Dynamo {pinned_version()} is not installed in {folder}; {REMEDY}")
    return folder / "bin" / "python"
