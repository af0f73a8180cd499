"""scripts/dev/clean-root.sh: what a command sees there and what it cannot touch. It installs nothing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "scripts/dev/clean-root.sh"


@pytest.fixture(scope="module", autouse=True)
def namespaces() -> None:
    """Skips where user namespaces are not allowed."""
    tried = ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "true"]
    if subprocess.run(tried, check=False, capture_output=True).returncode:
        pytest.skip("user namespaces are not allowed here")


def run(folder: Path, *words: str, binds: tuple[Path, ...] = ()) -> subprocess.CompletedProcess[str]:
    given = [word for bind in binds for word in ("--bind", str(bind))]
    return subprocess.run(
        [SCRIPT, *given, folder, *words],
        env={**os.environ, "SECRET": "of the caller"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_sees_the_systems_programs_and_nothing_of_the_caller(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "mine").write_text("kept")
    done = run(
        tmp_path, "GIVEN=1", "sh", "-c", f"cat mine; env; ls /usr/local; test ! -e {ROOT} && python3 -c ''"
    )
    assert done.returncode == 0, done.stderr
    first, *lines = done.stdout.splitlines()
    names = {line.split("=")[0] for line in (first.removeprefix("kept"), *lines)}
    assert names <= {"GIVEN", "HOME", "LANG", "PATH", "PWD", "SHLVL", "OLDPWD", "_"}
    assert first.startswith("kept") and "HOME=/root" in done.stdout


def test_it_cannot_change_the_system_and_its_exit_status_is_the_commands(tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    names = ("/usr/x", "/etc/x", f"{packages}/x")
    done = run(tmp_path / "root", "touch", *names, "/root/x", binds=(packages,))
    assert done.returncode == 1
    assert [name for name in names if f"'{name}': Read-only file system" not in done.stderr] == []
    assert (tmp_path / "root/root/x").exists() and not any(Path(name).exists() for name in names)
    assert run(tmp_path / "root", "sh", "-c", "exit 7").returncode == 7


def test_what_is_left_running_ends_with_the_command(tmp_path: Path) -> None:
    done = run(tmp_path, "sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & exit 0")
    assert done.returncode == 0, done.stderr


def test_without_a_command_it_says_how_it_is_called(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("usage: ")
