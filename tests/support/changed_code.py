"""A copy of our packages in which a file can be another one, as `tpforge.outputs.deciding_code` then finds
it.

What runs is the real code all the time; only what decides an output is looked for in the copy.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tpforge.outputs import deciding_code

Changed = Callable[[str], AbstractContextManager[None]]


def copied_code(home: Path, monkeypatch: pytest.MonkeyPatch) -> Changed:
    """Copies our packages to the new folder `home`; gives a block in which the file of a name is changed."""
    for package in deciding_code.PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(deciding_code.HOME / package, home / package, ignore=ignored)
    monkeypatch.setattr(deciding_code, "HOME", home)

    @contextmanager
    def changed(name: str) -> Iterator[None]:
        file = home / name
        before = file.read_bytes()
        file.write_bytes(before + b"\n")
        try:
            yield
        finally:
            file.write_bytes(before)

    return changed
