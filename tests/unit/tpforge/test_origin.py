"""tpforge._origin: a package of the same name that comes first on the path is refused by its path."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tpforge._origin import PACKAGES, refuse_shadowed
from tpforge.errors import EnvironmentUnusable


def test_the_installed_packages_are_accepted() -> None:
    refuse_shadowed()


def test_each_package_from_elsewhere_is_named_with_both_folders(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentUnusable) as caught:
        refuse_shadowed(tmp_path)
    lines = str(caught.value).splitlines()
    assert [line.strip().split(":")[0] for line in lines[1:]] == list(PACKAGES)
    assert f"hides tpforge's own in {tmp_path / 'builders'}" in lines[1]


@pytest.mark.parametrize("content", ["package", "module"])
def test_a_folder_or_module_in_the_current_directory_is_refused_with_exit_3(
    tmp_path: Path, content: str
) -> None:
    if content == "package":
        (tmp_path / "engines").mkdir()
        shadow = tmp_path / "engines"
        (shadow / "__init__.py").write_text("raise SystemExit('imported')")
    else:
        shadow = tmp_path / "engines.py"
        shadow.write_text("raise SystemExit('imported')")
    run = subprocess.run(
        [sys.executable, "-m", "tpforge", "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 3
    assert run.stdout == ""
    assert run.stderr.startswith("error: packages of tpforge are hidden or missing:")
    assert str(shadow) in run.stderr
    assert "Traceback" not in run.stderr


def test_the_check_imports_none_of_them() -> None:
    """Finding is cheap; it is importing that takes seconds."""
    code = (
        "import sys\n"
        "from tpforge._origin import PACKAGES, refuse_shadowed\n"
        "refuse_shadowed()\n"
        "print(*[name for name in PACKAGES if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == []
