"""How many CPUs this process may use: its affinity, and the quota of its control group.

It sets nothing. It is tpforge/processors.py, for a runtime that is copied without that.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def usable_processors(*, own: Path = Path("/proc/self/cgroup"), root: Path = _CGROUPS) -> int:
    """The CPUs of the affinity mask, or the quota of cgroup v2 or v1 where that is less; at least one."""
    return max(1, min([len(os.sched_getaffinity(0)), *_quotas(own, root)]))


def _quotas(own: Path, root: Path) -> list[int]:
    """What this control group, and each above it, allows, in whole CPUs."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        number, controllers, name = line.split(":", 2)
        if number == "0":
            top, read = root, _quota_v2
        elif "cpu" in controllers.split(","):
            top, read = root / "cpu", _quota_v1
        else:
            continue
        # In a container the group's own name may not be visible: its root is the mount.
        folder = top / name.lstrip("/")
        for group in [folder, *folder.parents]:
            if not group.is_relative_to(top):
                break
            quota = read(group)
            if quota is not None:
                found.append(math.ceil(quota))
    return found


def _quota_v2(group: Path) -> float | None:
    try:
        limit, period = (group / "cpu.max").read_text(encoding="ascii").split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _quota_v1(group: Path) -> float | None:
    try:
        limit = int((group / "cpu.cfs_quota_us").read_text(encoding="ascii"))
        period = int((group / "cpu.cfs_period_us").read_text(encoding="ascii"))
        return None if limit < 0 else limit / period
    except (OSError, ValueError, ZeroDivisionError):
        return None
