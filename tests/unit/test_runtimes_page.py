"""docs/runtimes.md explains every line that the golden files hold, and every parameter."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from triton_repo.parameters import parameter_tables

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "runtimes.md").read_text(encoding="utf-8")
GOLDEN = sorted((ROOT / "tests" / "golden" / "runtimes").glob("*.txt"))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_every_option_of_a_golden_file_is_on_the_page(path: Path) -> None:
    options = set(re.findall(r"(?<!\S)(--[a-z][\w-]+)", path.read_text()))
    assert len(options) > 8
    assert sorted(option for option in options if option not in PAGE) == []


@pytest.mark.parametrize(
    "path", [path for path in GOLDEN if "pytorch" in path.name], ids=lambda path: path.name
)
def test_every_key_of_a_yaml_file_is_on_the_page(path: Path) -> None:
    section = path.read_text().partition("1/model.yaml ===\n")[2].partition("=== serve")[0]
    keys = re.findall(r"^ *(\w+):", section, flags=re.MULTILINE)
    assert len(keys) > 9
    assert [key for key in keys if f"`{key}" not in PAGE] == []


def test_every_parameter_has_a_row_with_its_meaning() -> None:
    missing = [
        f"{table.model} {one.name}"
        for table in parameter_tables().values()
        for one in table.parameters
        if f"| {table.model} | `{one.name}` |" not in PAGE or one.meaning not in PAGE
    ]
    assert missing == []


def test_four_models_and_two_runtimes_have_a_golden_file() -> None:
    assert len(GOLDEN) == 8
