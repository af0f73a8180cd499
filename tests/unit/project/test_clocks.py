"""A clock that jumps changes nothing but dates: what takes time is measured by the monotonic clock.

It changes no clock; it reads which one the code asks.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
PACKAGES = ("tpforge", "builders", "engines", "triton_repo", "scripts")
WALL = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today"}
WALL_OF_SHELLS = re.compile(r"\$\{?(?:EPOCH)?SECONDS|\bSECONDS\b\s*[+-]|\bdate\s+\+")
"""Bash's SECONDS is that clock too."""
_ATTRIBUTES = {name.rpartition(".")[2] for name in WALL}


def wall_clocks(tree: ast.AST) -> list[ast.AST]:
    """Where a tree reads the clock that can jump."""
    return [
        node
        for node in ast.walk(tree)
        if (
            isinstance(node, ast.Attribute)
            and node.attr in _ATTRIBUTES
            and ast.unparse(node).endswith(tuple(WALL))
        )
        or (
            isinstance(node, ast.ImportFrom)
            and any(f"{node.module}.{one.name}" in WALL for one in node.names)
        )
    ]


def dates(tree: ast.AST) -> list[ast.AST]:
    """Those of them that are written as a date at once: `now(UTC).isoformat(...)`, f"{now(UTC):%Y%m%d}"."""
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    shown = [func.value for func in calls if isinstance(func, ast.Attribute) and func.attr == "isoformat"]
    parts = [node for node in ast.walk(tree) if isinstance(node, ast.FormattedValue)]
    shown += [part.value for part in parts if part.format_spec and "%Y" in ast.unparse(part.format_spec)]
    return [found for one in shown for found in wall_clocks(one)]


def test_the_clock_that_can_jump_is_read_for_dates_alone() -> None:
    num_dates, others = 0, []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            read = wall_clocks(tree)
            shown = dates(tree) if read else []
            num_dates += len(shown)
            others += [f"{path}: {ast.unparse(node)}" for node in read if node not in shown]
    assert others == []
    assert num_dates >= 4, "when runs and decisions were made"


def test_a_duration_by_that_clock_would_be_found() -> None:
    source = (
        "import time\nfrom time import time_ns\nbegun = time.time()\nat = datetime.now(UTC).isoformat()\n"
    )
    source += "name = f'{datetime.now(UTC):%Y%m%d}'\nsince = f'{datetime.now(UTC) - begun:.1f}'"
    tree = ast.parse(source)
    assert len(wall_clocks(tree)) == 5
    assert [ast.unparse(node) for node in dates(tree)] == 2 * ["datetime.now"]


def test_no_script_that_is_written_waits_by_that_clock() -> None:
    templates = [path for path in (ROOT / "triton_repo").rglob("*.j2") if ".sh" in path.suffixes]
    assert len(templates) >= 6
    texts = {str(path): _without_comments(path.read_text(encoding="utf-8")) for path in templates}
    assert {path for path, text in texts.items() if WALL_OF_SHELLS.search(text)} == set()


def test_a_script_that_waits_by_it_would_be_found() -> None:
    for line in ("deadline=$((SECONDS + 5))", '[ "$SECONDS" -gt 5 ]', "end=$(date +%s)", "a=$EPOCHSECONDS"):
        assert WALL_OF_SHELLS.search(line), line


def _without_comments(script: str) -> str:
    return "\n".join(line for line in script.splitlines() if not line.lstrip().startswith("#"))
