"""The wheel of this checkout, unpacked, and a Python that sees it and what a light installation has.

It installs nothing and needs no network: what pip would have installed is linked from this environment, found
by the metadata of the distributions themselves.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


def build_wheel(folder: Path) -> Path:
    """The wheel, by the build backend that pyproject.toml names."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("tpforge-*.whl")
    return wheel


@dataclass(frozen=True)
class LightPython:
    """This Python without its site-packages, but with an unpacked wheel and its dependencies."""

    site: Path
    dependencies: Path

    def run(self, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """`tpforge ARGUMENTS`, as the console entry of the wheel starts it."""
        start = "import sys; from tpforge.__main__ import main; sys.exit(main())"
        return subprocess.run(
            [sys.executable, "-S", "-P", "-c", start, *arguments],
            cwd=cwd,
            env={
                "PATH": "/usr/bin:/bin",
                "HOME": str(cwd),
                "PYTHONPATH": f"{self.site}:{self.dependencies}",
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )


def light_python(folder: Path) -> LightPython:
    """A light installation of the wheel, in new folders under `folder`."""
    site, dependencies = folder / "site", folder / "dependencies"
    with zipfile.ZipFile(build_wheel(folder)) as archive:
        archive.extractall(site)
    dependencies.mkdir()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for name in _closure([Requirement(line) for line in project["dependencies"]]):
        for file in distribution(name).files or ():
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (dependencies / top).exists():
                (dependencies / top).symlink_to(Path(str(distribution(name).locate_file(top))).resolve())
    return LightPython(site, dependencies)


def _closure(wanted: list[Requirement]) -> set[str]:
    """The names of the distributions that pip would install for these requirements, on this Python."""
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    while wanted:
        one = wanted.pop()
        name = re.sub(r"[-_.]+", "-", one.name).lower()
        found.add(name)
        for extra in ("", *one.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            for line in distribution(name).requires or ():
                needed = Requirement(line)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    wanted.append(needed)
    return found
