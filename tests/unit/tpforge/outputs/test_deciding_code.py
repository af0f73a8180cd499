"""tpforge.outputs.deciding_code: what is found of a small tree of packages, by every way to name a module."""

from __future__ import annotations

from pathlib import Path

import pytest

from tpforge.outputs import deciding_code
from tpforge.outputs.deciding_code import HOME, code_key, deciding_files

FILES = {
    "builders/__init__.py": "",
    "builders/top.py": """
from typing import TYPE_CHECKING

import json, torch
import builders.plain
from builders import aliased as other
from builders.named import thing
from .relative import thing as second

if TYPE_CHECKING:
    import builders.typed

def late():
    from builders.within import thing
    return "builders.spelled", "worker.py", "builders.no_module of ours"
""",
    "builders/plain.py": "import builders.second_hand",
    "builders/second_hand.py": "",
    "builders/aliased.py": "",
    "builders/named.py": "",
    "builders/relative.py": "from . import beside",
    "builders/beside.py": "",
    "builders/typed.py": "",
    "builders/within.py": "",
    "builders/spelled.py": "",
    "builders/worker.py": "",
    "builders/untouched.py": "",
    "builders/table.toml": "a = 1",
    "builders/templates/deep/model.py.j2": "",
    "builders/templates/deep/model.py": "import builders.untouched",
    "builders/__pycache__/top.pyc": "",
    "builders/room/__init__.py": "",
    "builders/room/inner.py": "",
    "builders/room/table.toml": "",
    "engines/__init__.py": "",
    "engines/whole/__init__.py": "",
    "engines/whole/first.py": "",
    "engines/whole/part/__init__.py": "",
    "engines/whole/part/second.py": "import builders.room.inner",
    "engines/copies.py": "from engines import whole",
    "engines/lazy/__init__.py": """
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .later import Name
else:

    def __getattr__(name):
        return getattr(import_module(".later", __name__), name)
""",
    "engines/lazy/later.py": "",
    "engines/asks.py": "from engines.lazy import Name",
    "engines/imports_of.py": "from engines.whole import NAME",
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def found(home: Path, *modules: str) -> set[str]:
    return {path.relative_to(home).as_posix() for path in deciding_files(*modules, home=home)}


def test_all_that_a_module_imports_is_found_and_the_files_beside_it_but_nothing_else(home: Path) -> None:
    names = (
        *("top", "plain", "second_hand", "aliased", "named", "relative", "beside"),
        *("within", "spelled", "worker"),
    )
    assert found(home, "builders.top") == {
        "builders/__init__.py",
        *(f"builders/{name}.py" for name in names),
        "builders/table.toml",
        "builders/templates/deep/model.py.j2",
        "builders/templates/deep/model.py",
    }


def test_a_package_that_is_imported_as_an_object_counts_whole(home: Path) -> None:
    assert found(home, "engines.copies") - found(home, "builders.room.inner") == {
        *("engines/__init__.py", "engines/copies.py"),
        *("engines/whole/__init__.py", "engines/whole/first.py"),
        *("engines/whole/part/__init__.py", "engines/whole/part/second.py"),
    }
    assert "builders/room/table.toml" in found(home, "engines.copies")
    assert "engines/whole/first.py" not in found(home, "engines.imports_of")


def test_names_that_a_package_loads_when_they_are_asked_for_count(home: Path) -> None:
    assert {"engines/lazy/__init__.py", "engines/lazy/later.py"} <= found(home, "engines.asks")


def test_the_proof_is_decided_by_the_runtime_that_it_runs() -> None:
    places = {path.relative_to(HOME).as_posix() for path in deciding_files("scripts.flows.prove")}
    assert {"engines/reference/model.py", "engines/reference/layers/norms.py"} <= places


def test_the_key_follows_content_and_names_and_nothing_else(home: Path) -> None:
    key = code_key("builders.top", home=home)
    (home / "builders/untouched.py").write_text("changed")
    assert code_key("builders.top", home=home) == key
    for name in ("builders/second_hand.py", "builders/table.toml", "builders/templates/deep/model.py.j2"):
        before = (home / name).read_bytes()
        (home / name).write_text("changed = 1")
        assert code_key("builders.top", home=home) != key, name
        (home / name).write_bytes(before)
        assert code_key("builders.top", home=home) == key
    (home / "builders/table.toml").rename(home / "builders/renamed.toml")
    assert code_key("builders.top", home=home) != key


def test_a_module_that_is_not_ours_or_not_there_is_an_error(home: Path) -> None:
    with pytest.raises(ModuleNotFoundError, match=r"builders\.gone: no such module under"):
        deciding_files("builders.gone", home=home)


def test_the_code_that_runs_is_read_once_and_a_copy_of_it_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[str, ...]] = []
    real = deciding_code.deciding_files

    def noted(*modules: str, home: Path | None = None) -> tuple[Path, ...]:
        read.append(modules)
        return real(*modules, home=home)

    monkeypatch.setattr(deciding_code, "deciding_files", noted)
    deciding_code._running_key.cache_clear()
    running = {code_key("tpforge.units") for _ in range(3)}
    copied = {code_key("tpforge.units", home=HOME) for _ in range(2)}
    assert running == copied and len(running) == 1
    assert read == 3 * [("tpforge.units",)]
