"""Processes by identity and by mark: what a server started, is it still there, end all of it.

A pid alone is recycled, so a record holds the start time too; and every process of a server carries the
server's mark in its environment, so that none is missed and no other is hit. It supervises nothing.
"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, ClassVar

from tpforge.errors import EnvironmentUnusable

MARK_VARIABLE = "TPFORGE_SERVER"
"""Set to the server's mark in every process of a server; read from /proc, never by a program."""

MARK = r"^tpforge-[A-Za-z0-9-]{1,64}$"
REGIONS = r"^tpforge-[A-Za-z0-9_.-]{1,200}$"
"""The form of a mark, and of how the names of a server's regions start: no others are removed."""

SHARED_MEMORY = Path("/dev/shm")
_PROC = Path("/proc")
_KILL_TIMEOUT_S = 10.0
_STUB = "triton_python_backend_stub"

# Runs before the program, in its process: ask the kernel to kill it when the supervisor ends, however that
# ends; then become the program. The supervisor may have ended before the request: its pid tells.
_TIE_TO_PARENT = (
    "import ctypes, os, signal, sys\n"
    "ctypes.CDLL(None).prctl(1, signal.SIGKILL)\n"
    "os.getppid() == int(sys.argv[1]) or sys.exit(1)\n"
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)


@dataclass(frozen=True)
class ProcessId:
    """A process that cannot be mistaken for a later one with its pid: start time in ticks since boot.

    Records hold it, and pydantic reads it as one of them; the guard of a server lives without pydantic, which
    would be most of what it imports.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    pid: int
    start_ticks: int
    boot_id: str


def identify(pid: int) -> ProcessId | None:
    """The identity of a running process; None when it has ended, a zombie included."""
    try:
        fields = stat_fields(_PROC / str(pid) / "stat")
    except (FileNotFoundError, ProcessLookupError):
        return None
    if fields[0] in ("Z", "X"):
        return None
    return ProcessId(pid=pid, start_ticks=int(fields[19]), boot_id=_boot_id())


def stat_fields(path: Path) -> list[str]:
    """The fields of a stat file after the name, which is in parentheses and may hold anything.

    They begin with the state, which proc(5) counts as field 3: the start time, field 22, has index 19.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    return text[text.rindex(")") + 2 :].split()


def is_alive(process: ProcessId) -> bool:
    """Whether this very process runs, and not another one under its pid."""
    return identify(process.pid) == process


def all_processes() -> Iterator[ProcessId]:
    """Every process that runs on this machine."""
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (process := identify(int(entry.name))) is not None:
            yield process


def has_open(process: ProcessId, path: Path) -> bool:
    """Whether a process of the user has a file open: a lock that only ours hold proves that it is ours."""
    try:
        wanted = path.stat()
        entries = list((_PROC / str(process.pid) / "fd").iterdir())
    except OSError:  # No such file, it has ended, or it belongs to another user.
        return False
    return any(_is_file(entry, wanted) for entry in entries)


def _is_file(entry: Path, wanted: os.stat_result) -> bool:
    try:
        return os.path.samestat(entry.stat(), wanted)
    except OSError:
        return False


def send_signal(process: ProcessId, number: signal.Signals) -> bool:
    """Signal a process if it is still the one meant; whether it was.

    Raises:
        EnvironmentUnusable: it belongs to another user.
    """
    if not is_alive(process):
        return False
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        raise EnvironmentUnusable(
            f"process {process.pid} belongs to another user; stop it as that user, or as root"
        ) from None
    return True


def wait_gone(process: ProcessId, *, timeout_s: float) -> bool:
    """Wait for a process that need not be our child; whether it ended in time."""
    end = time.monotonic() + timeout_s
    while is_alive(process):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def spawn_tied(
    command: list[str], *, environment: dict[str, str], cwd: Path, log: IO[bytes]
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own that the kernel kills when the calling *thread* ends."""
    # A session of its own: Ctrl-C in the terminal reaches the supervisor only, which decides.
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _TIE_TO_PARENT, str(os.getpid()), *command],
        env=environment,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def marked(mark: str) -> list[ProcessId]:
    """Every running process with this mark in its environment."""
    wanted = f"{MARK_VARIABLE}={mark}".encode()
    found = []
    for entry in _PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:  # It ended, or belongs to another user and so cannot be ours.
            continue
        if wanted in environment.split(b"\0") and (process := identify(int(entry.name))):
            found.append(process)
    return found


def kill_marked(mark: str) -> int:
    """Kill every process of a server at once, those that appear meanwhile included; how many there were."""
    killed: set[int] = set()
    end = time.monotonic() + _KILL_TIMEOUT_S
    while processes := marked(mark):
        for process in processes:
            if send_signal(process, signal.SIGKILL):
                killed.add(process.pid)
        if time.monotonic() > end:
            pids = ", ".join(str(process.pid) for process in processes)
            raise EnvironmentUnusable(f"processes {pids} do not end though killed; look at their state")
        time.sleep(0.02)
    return len(killed)


def remove_shared_memory(prefix: str) -> int:
    """Remove the user's shared-memory regions whose name starts with `prefix`; how many there were."""
    assert "/" not in prefix and prefix.startswith("tpforge-"), "read through REGIONS or MARK"
    count = 0
    for region in SHARED_MEMORY.iterdir():
        if region.name.startswith(prefix) and _is_ours(region):
            region.unlink(missing_ok=True)
            count += 1
    return count


def _is_ours(region: Path) -> bool:
    try:
        found = region.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()


def num_memory_kills() -> int:
    """How many processes the kernel has killed on this machine since boot because memory ran out.

    Those of a container's own limit count too. 0 where the kernel does not say (before Linux 4.13).
    """
    try:
        lines = (_PROC / "vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def memory_note(before: int) -> str:
    """What to add to how a process ended, when memory ran out since `before` of num_memory_kills; else ""."""
    number = num_memory_kills() - before
    if number <= 0:
        return ""
    killed = "a process" if number == 1 else f"{number} processes"
    return f"; memory ran out: the kernel has killed {killed} on this machine since the server was started"


def stubs_of(server_pid: int) -> dict[ProcessId, str]:
    """The model processes of a tritonserver with the name of each one's model."""
    import psutil

    found = {}
    try:
        children = psutil.Process(server_pid).children()
    except psutil.NoSuchProcess:
        return {}
    for child in children:
        try:
            command = child.cmdline()
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        if (model := model_of(command)) is not None:
            process = identify(child.pid)
            if process is not None:
                found[process] = model
    return found


def model_of(command: Sequence[str]) -> str | None:
    """The model that a process runs by its command; None where it is no model's process."""
    # triton_python_backend_stub REPOSITORY/MODEL/VERSION/model.py REGION ...
    is_stub = len(command) > 1 and Path(command[0]).name == _STUB
    return Path(command[1]).parent.parent.name if is_stub else None


class ModelProcesses:
    """The model processes of a tritonserver, looked at again and again for one that ended."""

    def __init__(self, server_pid: int) -> None:
        self._stubs = stubs_of(server_pid)
        self._ended_unseen = _ended_stub_of(server_pid)

    def ended(self) -> str | None:
        """Which one ended, before the first look or since; None while all run."""
        if self._ended_unseen is not None:
            return f"the process of a model (pid {self._ended_unseen}) ended while the server started"
        return next(
            (
                f"the process of model {model} (pid {stub.pid}) ended"
                for stub, model in self._stubs.items()
                if not is_alive(stub)
            ),
            None,
        )


def _ended_stub_of(server_pid: int) -> int | None:
    """A model process of a tritonserver that ended before anybody looked; Triton leaves it a zombie."""
    import psutil

    try:
        for child in psutil.Process(server_pid).children():
            with suppress(psutil.NoSuchProcess):  # A zombie has no command line; the kernel keeps 15 letters.
                if child.status() == psutil.STATUS_ZOMBIE and child.name() == _STUB[:15]:
                    return int(child.pid)
    except psutil.NoSuchProcess:
        return None
    return None


def _boot_id() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
