"""Makes Dynamo's environment: a venv of this Python with the pinned packages, whole or not at all.

The packages come by pip from the index that it is configured for, with their hashes checked.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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

SPACE_GB = 1.0
"""What is wanted on the disk: 750 MB installed, and wheels while they are unpacked."""
_INSTEAD = "name a folder elsewhere by XDG_DATA_HOME"
_PROOF = "import dynamo.common.backend, dynamo.frontend, tritonclient.grpc"
_MAX_LINES = 8
_FULL = ("No space left on device", "Errno 28", "Disk quota exceeded")
_NO_INDEX = ("No matching distribution found", "Could not find a version", "Connection", "Max retries")
"""Words of pip 22 to 26."""


def install(*, progress: Progress) -> tuple[Path, bool]:
    """The environment's folder, and whether it was made now; one that is there is kept.

    Raises:
        EnvironmentUnusable: pip fails, or what it installed does not start on this machine.
    """
    folder = environment_folder()
    if is_complete(folder):
        return folder, False
    with os_errors(folder, instead=_INSTEAD), _alone(folder, progress=progress):
        if is_complete(folder):
            return folder, False
        _refuse_full(folder.parent)
        shutil.rmtree(folder, ignore_errors=True)
        progress(f"installing NVIDIA Dynamo {pinned_version()} into {folder}")
        try:
            _fill(folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        mark_complete(folder)
    return folder, True


def _refuse_full(parent: Path) -> None:
    """Refuse before anything is fetched.

    Raises:
        EnvironmentUnusable: the disk has too little space.
    """
    free_gb = shutil.disk_usage(parent).free / 1e9
    if free_gb < SPACE_GB:
        raise EnvironmentUnusable(
            f"{parent}: {free_gb:.2f} GB are free, NVIDIA Dynamo wants {SPACE_GB:g} GB; "
            f"free space or {_INSTEAD}"
        )


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
    status, said = _outcome(command)
    if status:
        last = "\n  ".join(said.strip().splitlines()[-_MAX_LINES:])
        raise EnvironmentUnusable(
            f"NVIDIA Dynamo {pinned_version()} cannot be installed on this machine, nothing of it is kept. "
            f"{_hint(last)}{' '.join(command[:3])} ended with exit status {status}:\n  {last}"
        )


def _outcome(command: list[str]) -> tuple[int, str]:
    """Exit status and output; whoever interrupts us ends all of it.

    pip --python starts a second pip, which would go on writing into what is removed.
    """
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            said, _ = process.communicate()
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
        return process.returncode, said


def _hint(said: str) -> str:
    """What to do about an error of pip whose own words do not say so."""
    if any(word in said for word in _FULL):
        return f"The disk is full: free space, or {_INSTEAD}; pip unpacks in TMPDIR. "
    if any(word in said for word in _NO_INDEX):
        return (
            "No package index answers, or it lacks them: look at the network, and at the index that pip has "
            "(pip config list). "
        )
    return ""


@contextmanager
def _alone(folder: Path, *, progress: Progress) -> Iterator[None]:
    """Hold the lock beside the folder: two checkouts may want it at once."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(
        folder.with_name(f".{folder.name}.lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600
    )
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another setup of it, which runs now")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
