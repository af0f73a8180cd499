"""A call of somebody else's code, such as a chat template, that may not run for ever nor take all memory.

The call is made in a forked process, so that the kernel holds its bounds: processor seconds, memory, bytes of
its answer. It is no jail: files and network are as they are here; a sandbox must keep the code from them.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from tpforge.errors import InputRefused

CPU_S = 5
WALL_S = 120.0
"""Of a machine that has other things to do: processor seconds are what bounds the code."""
MEMORY_BYTES = 512 << 20
ANSWER_BYTES = 4 << 20


def call_bounded(make: Callable[[], Sequence[str]], *, what: str) -> list[str]:
    """The texts that `make` returns.

    Raises:
        InputRefused: it raised, or went beyond a bound.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _be_child(make, writing)
    os.close(writing)
    try:
        data = _read(reading, what)
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if not data.endswith(b"\n"):
        ended = os.waitstatus_to_exitcode(status)
        raise InputRefused(f"{what}: went beyond {_bounds()}, or broke off ({ended}); it is not rendered")
    value = json.loads(data)
    if "error" in value:
        raise InputRefused(f"{what}: {value['error']}")
    return list(value["texts"])


def _read(descriptor: int, what: str) -> bytes:
    """All that the child says, within the bounds."""
    data, end = bytearray(), time.monotonic() + WALL_S
    while True:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            raise InputRefused(f"{what}: went beyond {WALL_S:.0f} s; it is not rendered")
        chunk = os.read(descriptor, 1 << 16)
        if not chunk:
            return bytes(data)
        data += chunk


def _be_child(make: Callable[[], Sequence[str]], writing: int) -> NoReturn:
    """Do the work and end, by no way of the parent's: its buffers and exit handlers are not this one's."""
    try:
        _limit()
        texts = list(make())
        value: dict[str, object] = {"texts": texts}
        if (length := sum(map(len, texts))) > ANSWER_BYTES:
            value = {"error": f"gave {length} characters, expected at most {ANSWER_BYTES}"}
    except MemoryError:
        value = {"error": f"went beyond {_bounds()}"}
    except Exception as error:
        value = {"error": (str(error) or type(error).__name__)[:1000]}
    try:
        data = memoryview((json.dumps(value) + "\n").encode())
        while data:
            data = data[os.write(writing, data) :]
    finally:
        os._exit(0)


def _limit() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    mapped = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY_BYTES, mapped + MEMORY_BYTES))


def _bounds() -> str:
    return f"{CPU_S} processor seconds or {MEMORY_BYTES >> 20} MiB"
