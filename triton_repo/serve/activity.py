"""What a process and those below it do, as the kernel counts it: run, wait to run, read and write.

It takes one look and judges nothing; `stalled` does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from triton_repo.serve.processes import stat_fields

PROC = Path("/proc")
_NS_PER_S = 1e9
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_AT_WORK = frozenset("RDt")
"""States of a thread that runs or wants to, waits for a disk, or is looked at by a debugger."""


@dataclass(frozen=True)
class Activity:
    """One process at one moment.

    `runnable_s` is what all its threads ran since it began, and for how long they waited for a processor,
    which tells one that is starved from one that wants nothing. `num_bytes` is what it read and wrote.
    """

    pid: int
    parent: int
    command: tuple[str, ...]
    is_at_work: bool
    runnable_s: float
    num_bytes: int


def activities(root: int, *, proc: Path = PROC) -> tuple[Activity, ...]:
    """The process `root` and all below it, it first; nothing of those that ended."""
    children: dict[int, list[int]] = {}
    for pid, stat in _stats(proc):
        if stat[0] not in ("Z", "X"):
            children.setdefault(int(stat[1]), []).append(pid)
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop(0)
        waiting += sorted(children.get(pid, []))
        with suppress(OSError, ValueError):  # It ended meanwhile.
            found.append(_activity(pid, proc / str(pid)))
    return tuple(found)


def waits_of(pid: int, *, proc: Path = PROC) -> str:
    """What its threads wait for, in the kernel's words, such as ``S futex_wait_queue``; each once."""
    found = []
    for thread in _threads(proc / str(pid)):
        with suppress(OSError, ValueError):
            where = (thread / "wchan").read_text(encoding="ascii").strip("0")
            found.append(f"{stat_fields(thread / 'stat')[0]} {where}".strip())
    return ", ".join(sorted(set(found))) or "unknown"


def _stats(proc: Path) -> Iterator[tuple[int, list[str]]]:
    for entry in proc.iterdir():
        if entry.name.isdigit():
            with suppress(OSError, ValueError):
                yield int(entry.name), stat_fields(entry / "stat")


def _activity(pid: int, folder: Path) -> Activity:
    stat = stat_fields(folder / "stat")
    threads = list(_threads(folder))
    ran_s = (int(stat[11]) + int(stat[12])) / _TICKS_PER_S  # utime and stime, of threads that ended too
    command = (folder / "cmdline").read_bytes().split(b"\0")
    return Activity(
        pid=pid,
        parent=int(stat[1]),
        command=tuple(os.fsdecode(word) for word in command if word),
        is_at_work=any(_state(thread) in _AT_WORK for thread in threads),
        runnable_s=ran_s + sum(_waited_s(thread) for thread in threads),
        num_bytes=_num_bytes(folder),
    )


def _threads(folder: Path) -> Iterator[Path]:
    with suppress(OSError):
        yield from (folder / "task").iterdir()


def _state(thread: Path) -> str:
    try:
        return stat_fields(thread / "stat")[0]
    except (OSError, ValueError):
        return "X"


def _waited_s(thread: Path) -> float:
    """For how long a thread was ready to run and no processor was free; 0 where the kernel does not count."""
    try:
        return int((thread / "schedstat").read_text(encoding="ascii").split()[1]) / _NS_PER_S
    except (OSError, ValueError, IndexError):
        return 0.0


def _num_bytes(folder: Path) -> int:
    """By read and write calls; 0 where this may not be seen."""
    try:
        lines = (folder / "io").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    counts = dict(line.split(": ") for line in lines)
    return int(counts["rchar"]) + int(counts["wchar"])
