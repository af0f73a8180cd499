"""The house: no file too long to read, no folder too crowded to search, and each file says what it is for."""

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from scripts.commands.table import STAGES

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


@cache
def docstring(path: Path) -> str:
    """What a module says of itself."""
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


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
        if not docstring(path) and path.stat().st_size
    ]
    assert silent == []


def is_called(name: str, *, words: set[str], tops: set[str]) -> bool:
    """Whether there is such a word, or a module of ours by that dotted name, or by all but its end."""
    first, *rest = name.split(".")
    if first not in tops or not rest:
        return first in words
    path = ROOT.joinpath(first, *rest)
    return any(one.is_dir() or one.with_suffix(".py").is_file() for one in (path, path.parent))


def test_a_module_names_others_as_they_are_called() -> None:
    """A docstring has between backticks modules of its package, commands, and words of its own code."""
    files = [path.relative_to(ROOT) for path in python_files()]
    tops = {path.parts[0] for path in files}
    modules = {
        top: {word for path in files if path.parts[0] == top for word in path.with_suffix("").parts}
        for top in tops
    }
    known = {*tops, *(name for stage in STAGES for name in stage.commands)}
    unknown = []
    for path in files:
        said = docstring(ROOT / path)
        code = (ROOT / path).read_text(encoding="utf-8").replace(said, "")
        words = {*re.findall(r"\w+", code), *modules[path.parts[0]], *known}
        named = re.findall(r"(?<!`)`([a-z_]\w*(?:\.\w+)*)`(?!`)", said)
        unknown += [f"{path}: {name}" for name in named if not is_called(name, words=words, tops=tops)]
    assert unknown == [], "between single backticks stands what is ours, between double ones a literal"
