"""Makes Dynamo's environment: a venv of this Python with the pinned packages, whole or not at all.

The packages come by pip from the index that it is configured for, with their hashes checked.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tpforge.errors import EnvironmentUnusable
from tpforge.outputs.atomic import os_errors
from tpforge.progress import Progress
from triton_repo.openai.environment import (
    LOCK,
    environment_folder,
    is_complete,
    mark_complete,
    pinned_version,
)

_PROOF = "import dynamo.common.backend, dynamo.frontend, tritonclient.grpc"
_MAX_LINES = 8


def install(*, progress: Progress) -> tuple[Path, bool]:
    """The environment's folder, and whether it was made now; one that is there is kept.

    Raises:
        EnvironmentUnusable: pip fails, or what it installed does not start on this machine.
    """
    folder = environment_folder()
    if is_complete(folder):
        return folder, False
    with os_errors(folder), _alone(folder):
        if is_complete(folder):
            return folder, False
        shutil.rmtree(folder, ignore_errors=True)
        progress(f"installing NVIDIA Dynamo {pinned_version()} into {folder}")
        try:
            _fill(folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        mark_complete(folder)
    return folder, True


def _fill(folder: Path) -> None:
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python), "--quiet"]
    _run(
        [
            *pip,
            "install",
            "--no-deps",
            "--require-hashes",
            "--only-binary",
            ":all:",
            "--requirement",
            str(LOCK),
        ]
    )
    _run([str(python), "-I", "-c", _PROOF])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        last = "\n  ".join((done.stderr or done.stdout).strip().splitlines()[-_MAX_LINES:])
        raise EnvironmentUnusable(
            f"NVIDIA Dynamo {pinned_version()} cannot be installed on this machine: "
            f"{' '.join(command[:4])} ... ended with exit status {done.returncode}:\n  {last}"
        )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock beside the folder: two checkouts may want it at once."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(
        folder.with_name(f".{folder.name}.lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600
    )
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
