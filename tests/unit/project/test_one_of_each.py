"""What is done once is imported once: no second writer, parser, opener or helper comes beside the first."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PACKAGES = ("tpforge", "builders", "engines", "triton_repo", "scripts")
TEMPLATES = "triton_repo/templates/"
"""These run beside a model, without tpforge."""


@cache
def sources() -> dict[str, ast.Module]:
    return {
        path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }


@cache
def names_in(file: str) -> frozenset[str]:
    return frozenset(_names(sources()[file]))


def _names(tree: ast.Module) -> Iterator[str]:
    """Every dotted name that a file imports or reads: `os.link`, `yaml`, `urllib.request`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"


def files_with(*wanted: str) -> set[str]:
    """The files of the packages that use one of these names or what is below it."""
    return {
        file
        for file in sources()
        if any(name == one or name.startswith(f"{one}.") for name in names_in(file) for one in wanted)
    }


@pytest.mark.parametrize(
    ("what", "names", "places"),
    [
        ("opener of URLs", ["urllib.request"], {"tpforge/system/opener.py"}),
        ("parser of metrics", ["prometheus_client"], {"triton_repo/client/metrics.py"}),
        ("renderer of chat templates", ["transformers.utils.chat_template_utils", "jinja2.sandbox"],
         {"engines/chat.py"}),
        # `written` keeps what is not ours beside a new output: links as links, times as they were.
        ("link", ["os.link"], {"tpforge/system/linking.py", "tpforge/outputs/written.py"}),
        ("reader of nvidia-smi's links", ["tpforge.topology.parse_topology"],
         {"engines/host.py", "scripts/flows/diagnose.py"}),
    ],
)  # fmt: skip
def test_there_is_one(what: str, names: list[str], places: set[str]) -> None:
    assert files_with(*names) == places, what


def test_yaml_is_written_by_one_module_and_read_beside_models() -> None:
    assert {name for name in files_with("yaml") if not name.startswith(TEMPLATES)} == {"tpforge/yaml_text.py"}
    assert files_with("yaml.dump", "yaml.safe_dump", "yaml.dump_all") == {"tpforge/yaml_text.py"}


def test_toml_is_written_by_tomli_w_alone() -> None:
    assert files_with("tomli_w")
    assert files_with("tomlkit", "toml", "pytoml") == set()


def test_progress_is_defined_once() -> None:
    defined = {
        file
        for file, tree in sources().items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.ClassDef) and node.name == "Progress")
        or (
            isinstance(node, ast.Assign)
            and any(isinstance(target, ast.Name) and target.id == "Progress" for target in node.targets)
        )
    }
    assert defined == {"tpforge/progress.py"}
