"""No circle of imports: what one module needs can be read, tested and moved without the other.

import-linter holds which package may import which. Imports in functions and under TYPE_CHECKING count.
"""

from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

PACKAGES = ("tpforge", "builders", "engines", "triton_repo", "scripts")


def find_circle(*packages: str) -> list[str]:
    """The modules of one circle, each importing the one before it; empty when there is none."""
    graph = grimp.build_graph(*packages, exclude_type_checking_imports=False, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return [str(module) for module in error.args[1]]
    return []


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert find_circle(*PACKAGES) == []


@pytest.mark.parametrize(
    "closing",
    [
        "import circular.first",
        "def late() -> None:\n    from circular import first",
        "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from .first import One",
    ],
    ids=["plain", "within a function", "under TYPE_CHECKING"],
)
def test_a_circle_is_found_however_it_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closing: str
) -> None:
    package = tmp_path / "circular"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "first.py").write_text("from circular.second import Two\n")
    (package / "second.py").write_text(f"{closing}\n")
    monkeypatch.syspath_prepend(tmp_path)

    assert set(find_circle("circular")) == {"circular.first", "circular.second"}
