"""What an installation takes: the wheel by `uv tool install` in a root that has nothing, and what runs there.

Run it as ``python -m benchmarks.install [--only light]``. Each row is a root of its own, with an empty
cache, by scripts/dev/clean-root.sh; its commands are run as a person types them, and the first that fails
ends it. Packages come from the index that uv is configured for, and from the folders of wheels that pip is
pointed at; a build of torch for CUDA is several times as large as one for the CPU.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.tables import head, line
from tests.support.tiny import write_tiny_llama
from tests.support.wheel import ROOT, build_wheel

PYTHON = "/usr/bin/python3.11"
LIGHT = (
    "plan llama-3.1-8b --gpu h100-sxm",
    "gpus",
    "inspect model --tp 2",
    "convert model --tp 2 --dry-run",
)
CONVERTING = (
    "convert model --tp 2 --out checkpoint",
    "build model --tp 2 --name tiny",
    "verify tiny",
    "render tiny",
    "deploy tiny --target compose",
)
SERVING = (
    "serve tiny --detach --port-base 25000",
    "smoke localhost:25001 --engine tiny",
    "generate --url localhost:25001 --max-tokens 4 Hello",
    "stop tiny",
)


@dataclass(frozen=True)
class Row:
    """An installation and the commands that are run with it."""

    name: str
    extras: str
    commands: tuple[str, ...]


ROWS = (
    Row("light", "", LIGHT),
    Row("convert", "[convert]", (*LIGHT, *CONVERTING)),
    Row("server", "[convert,server]", (*LIGHT, *CONVERTING, *SERVING)),
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=[row.name for row in ROWS], help="one row")
    only = parser.parse_args().only
    print(head("installed", "packages", "size", "download and installation", "run there"), flush=True)
    with tempfile.TemporaryDirectory(prefix="tpforge-install-") as folder:
        wheel, uv = build_wheel(Path(folder)), _uv(Path(folder) / "uv")
        for row in ROWS:
            if only in (None, row.name):
                print(_installed(row, Path(folder) / row.name, wheel=wheel, uv=uv), flush=True)


def _installed(row: Row, root: Path, *, wheel: Path, uv: Path) -> str:
    """Install and run; a row of the table."""
    home = root / "root"
    home.mkdir(parents=True)
    for file in (wheel, uv):
        (home / file.name).write_bytes(file.read_bytes())
    (home / uv.name).chmod(0o755)
    write_tiny_llama(home / "model")
    begun = time.monotonic()
    what = f"tpforge{row.extras} @ file:///root/{wheel.name}" if row.extras else wheel.name
    _run(root, f"./{uv.name} tool install --quiet --python {PYTHON} {shlex.quote(what)}")
    seconds = time.monotonic() - begun
    (packages,) = home.glob(".local/share/uv/tools/tpforge/lib/python*/site-packages")
    size = sum(file.lstat().st_size for file in packages.rglob("*") if file.is_file())
    count = len(list(packages.glob("*.dist-info")))
    # At once: what a command leaves running ends with its root.
    _run(root, f"sh -exc {shlex.quote('; '.join(f'tpforge {command}' for command in row.commands))}")
    verbs = ", ".join(dict.fromkeys(command.split()[0] for command in row.commands))
    return line(f"`tpforge{row.extras}`", str(count), f"{size / 1e6:.0f} MB", f"{seconds:.0f} s", verbs)


def _run(root: Path, command: str) -> None:
    """In the clean root, with what installers and clients read of this environment.

    Raises:
        SystemExit: it failed.
    """
    names = ("UV_", "SSL_CERT_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
    given = {key: value for key, value in os.environ.items() if key.upper().startswith(names)}
    links = [link for link in os.environ.get("PIP_FIND_LINKS", "").split() if Path(link).is_dir()]
    if links:
        given["UV_FIND_LINKS"] = " ".join(links)
    binds = [word for link in links for word in ("--bind", link)]
    words = [*binds, str(root), *(f"{key}={value}" for key, value in given.items()), *shlex.split(command)]
    print(f"$ {command}", file=sys.stderr, flush=True)
    done = subprocess.run([str(ROOT / "scripts/dev/clean-root.sh"), *words], stdout=sys.stderr)
    if done.returncode:
        raise SystemExit(f"{command}: exit status {done.returncode}")


def _uv(folder: Path) -> Path:
    """The program uv, which is no dependency."""
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), "uv"], check=True
    )
    return folder / "bin" / "uv"


if __name__ == "__main__":
    main()
