"""Memory that runs out for one process: a control group of its own with almost none; the kernel ends it.

It starts and judges nothing: `memory` does. Making a group needs root, or a group that was delegated.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.patience import wait_until

_LIMIT_BYTES = 1 << 20
"""What the process has already is counted elsewhere: this is what it may take from now on."""
_GROUPS = Path("/sys/fs/cgroup")

Put = Callable[[int], None]
"""Puts the process of a pid into the group."""


@contextmanager
def without_memory() -> Iterator[Put]:
    """A group in which a process is put by its pid, and which the kernel kills as soon as it wants memory.

    Raises:
        OSError: no group can be made here.
    """
    own, limit = _own_group()
    group = own / f"tpforge-drill-{os.getpid()}"
    group.mkdir()

    def put(pid: int) -> None:
        (group / "cgroup.procs").write_text(str(pid), encoding="ascii")

    try:
        (group / limit).write_text(str(_LIMIT_BYTES), encoding="ascii")
        yield put
    finally:
        wait_until(lambda: _is_removed(group), "what was put into the group has ended")


def _own_group() -> tuple[Path, str]:
    """The folder of our own group of memory, and the name of its limit, in version 1 or 2."""
    lines = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    paths = {controllers: path for _, controllers, path in (line.split(":", 2) for line in lines)}
    for controllers, path in paths.items():
        if "memory" in controllers.split(","):
            return _GROUPS / "memory" / path.lstrip("/"), "memory.limit_in_bytes"
    return _GROUPS / paths.get("", "/").lstrip("/"), "memory.max"


def _is_removed(group: Path) -> bool:
    try:
        group.rmdir()
    except OSError:
        return False
    return True
