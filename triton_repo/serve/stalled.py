"""Whether a server that is starting still moves: a process that does nothing for a minute will not load.

Triton's Python backend hangs so now and then, mostly where models start side by side on a busy machine
(triton-inference-server/server 4331 and 5211, tensorrtllm_backend 553), and Triton waits for ever.
It looks and judges; `readiness` asks it, and `supervisor` decides what follows.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from triton_repo.serve.activity import Activity, activities, waits_of
from triton_repo.serve.processes import identify, model_of

QUIET_S = 60.0
_LOOK_S = 1.0
_LONGEST_LOOK_S = 6.0
"""What one look counts at most: a watch that was itself stopped or starved has not seen what went on."""
_BUSY_SHARE = 0.1
"""Runnable for less, a process only looks whether there is something to do, as those that wait do."""
_NUM_BYTES = 1 << 20
_STACKS_S = 5.0


@dataclass(frozen=True)
class Stall:
    """A part of a server that does not move: in words, and its processes."""

    cause: str
    pids: tuple[int, ...]


@dataclass
class _Quiet:
    """How long a part has done nothing, and what little its processes did meanwhile."""

    seconds: float = 0.0
    last: dict[int, Activity] = field(default_factory=dict)
    busy_s: dict[int, float] = field(default_factory=dict)
    num_bytes: dict[int, int] = field(default_factory=dict)

    def look(self, part: Sequence[Activity], *, elapsed_s: float) -> bool:
        """Whether it did nothing still; a process more or less is something."""
        if {one.pid for one in part} != self.last.keys():
            return False
        for one in part:
            before = self.last[one.pid]
            ran_s = max(0.0, one.runnable_s - before.runnable_s)
            self.busy_s[one.pid] = self.busy_s.get(one.pid, 0.0) + max(
                ran_s, elapsed_s if one.is_at_work else 0.0
            )
            read = max(0, one.num_bytes - before.num_bytes)
            self.num_bytes[one.pid] = self.num_bytes.get(one.pid, 0) + read
            self.last[one.pid] = one
        self.seconds += elapsed_s
        return max(self.busy_s.values()) < _BUSY_SHARE * QUIET_S and max(self.num_bytes.values()) < _NUM_BYTES


class StartWatch:
    """Looks at a tritonserver and all below it, about once a second however often it is asked.

    Parts are looked at each for itself: the process of a model that is loading with those below it, one
    that Triton split off for a model and that never became it, and the server as a whole. A part may wait for
    Triton itself: it hangs when that does nothing either.
    """

    def __init__(
        self,
        server_pid: int,
        *,
        look: Callable[[int], Sequence[Activity]] = activities,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._server_pid, self._look, self._now = server_pid, look, now
        self._looked, self._log_size = now(), -1
        self._parts: dict[str, _Quiet] = {}

    def stall(self, *, loading: Collection[str], log_size: int) -> Stall | None:
        """What has done nothing for a minute, the smallest parts of it; None while all move.

        `loading` are the models that are not loaded yet. A log that grows is a server that moves.
        """
        elapsed_s = self._now() - self._looked
        if elapsed_s < _LOOK_S:
            return None
        self._looked += elapsed_s
        if log_size != self._log_size:
            self._parts, self._log_size = {}, log_size
        found = self._look(self._server_pid)
        parts = _parts(found, loading)
        self._parts = {name: self._parts.get(name, _Quiet()) for name in parts}
        for name, part in parts.items():
            quiet = self._parts[name]
            waited_for = {one.pid: one for one in (found[0], *part)}
            if not quiet.look(tuple(waited_for.values()), elapsed_s=min(elapsed_s, _LONGEST_LOOK_S)):
                self._parts[name] = _Quiet(last=waited_for)
        if max((quiet.seconds for quiet in self._parts.values()), default=0.0) < QUIET_S:
            return None
        # One of several processes of a model may hang, and the others wait: the log does not tell which.
        still = [name for name in parts if self._parts[name].seconds >= QUIET_S - _LONGEST_LOOK_S]
        whole = list(parts)[-1]
        smallest = [name for name in still if name != whole] or still
        return _describe({name: parts[name] for name in smallest})


def show_stacks(stall: Stall) -> None:
    """Have its processes say where they are, in the server's log, and end: they are of no use any more.

    The models of our repositories write their stacks by this signal; it ends any other process at once.
    """
    for pid in stall.pids:
        with suppress(OSError, ValueError):
            resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
            os.kill(pid, signal.SIGQUIT)
            os.kill(pid, signal.SIGCONT)  # One that is stopped hears nothing else.
    end = time.monotonic() + _STACKS_S
    while time.monotonic() < end and any(map(identify, stall.pids)):
        time.sleep(0.05)


def _parts(found: Sequence[Activity], loading: Collection[str]) -> dict[str, tuple[Activity, ...]]:
    """The parts of a server by what they are, the smallest first, each with the processes below it."""
    if not found:
        return {}
    server, *others = found
    parts = {}
    for child in (one for one in others if one.parent == server.pid):
        below = _below(child, others)
        if (model := model_of(child.command)) is not None:
            if model in loading:
                parts[f"the process of model {model} (pid {child.pid})"] = below
        elif child.command == server.command:
            parts[f"a process that was to become a model's (pid {child.pid})"] = below
    parts[f"the server (pid {server.pid})"] = tuple(found)
    return parts


def _below(child: Activity, others: Sequence[Activity]) -> tuple[Activity, ...]:
    below = [child]
    for one in others:  # Parents come before their children.
        if one.parent in {parent.pid for parent in below}:
            below.append(one)
    return tuple(below)


def _describe(parts: Mapping[str, Sequence[Activity]]) -> Stall:
    pids = tuple(one.pid for part in parts.values() for one in part)
    waits = "; ".join(f"{pid}: {waits_of(pid)}" for pid in pids)
    return Stall(
        f"{', '.join(parts)} did nothing for {QUIET_S:.0f} s of a start: it neither ran nor waited for a "
        f"processor or a disk, nor read or wrote; its threads wait in the kernel ({waits})",
        pids,
    )
