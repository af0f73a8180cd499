"""The house: no file too long to read, no folder too crowded to search, and each file says what it is for."""

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
MOST_LINES = 400
MOST_MODULES = 30
"""Side by side in a folder; most have far fewer."""


def python_files() -> list[Path]:
    """Those of the repository: what git tracks and what it would."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", "*.py"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode != 0:
        pytest.skip(f"git tells no files here: {listed.stderr.strip()}")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_no_file_is_too_long_to_read() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in python_files()}
    long = [f"{path.relative_to(ROOT)}: {length}" for path, length in lengths.items() if length > MOST_LINES]
    assert long == [], "split by idea"


def test_no_folder_is_too_crowded_to_search() -> None:
    folders: dict[Path, int] = {}
    for path in python_files():
        folders[path.parent] = folders.get(path.parent, 0) + (path.name != "__init__.py")
    many = {path: count for path, count in folders.items() if count > MOST_MODULES}
    crowded = [f"{path.relative_to(ROOT)}: {count}" for path, count in many.items()]
    assert crowded == [], "group what is one idea in a folder of its own"


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        path.relative_to(ROOT).as_posix()
        for path in python_files()
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) and path.stat().st_size
    ]
    assert silent == []
