"""Drill: the disk is full, nothing may be written, no descriptor is left, at each step of a command.

The error is raised where the operating system would raise it, in a process of its own, from one step on to
its end; a file that outgrows its limit is the kernel's own doing. No server is started.
"""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from scripts.main import main
from tests.drills.figures import Figure
from tests.drills.kills import COMMANDS, MINE, contents
from tests.support.forked import FORKING

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_MAKING = ("os.mkdir", "os.rename", "os.link", "os.symlink")
_REMOVING = ("os.remove", "os.rmdir", "os.truncate", "os.chmod")
PUSH = "engines push"
_BUG = 1
"""The exit status of what nobody expected."""


@dataclass(frozen=True)
class Fault:
    """An error of the operating system; `meets` says which calls in the output's folder have it."""

    name: str
    number: int
    meets: Callable[[str, tuple[Any, ...]], bool]


def _opens(event: str, _arguments: tuple[Any, ...]) -> bool:
    return event == "open"


def _opens_to_write(event: str, arguments: tuple[Any, ...]) -> bool:
    return event == "open" and isinstance(arguments[2], int) and bool(arguments[2] & _WRITING)


def _makes(event: str, arguments: tuple[Any, ...]) -> bool:
    return event in _MAKING or _opens_to_write(event, arguments)


def _changes(event: str, arguments: tuple[Any, ...]) -> bool:
    return event in _REMOVING or _makes(event, arguments)


FAULTS = (
    Fault("full disk", errno.ENOSPC, _makes),
    Fault("no permission", errno.EACCES, _changes),
    Fault("read-only file system", errno.EROFS, _changes),
    Fault("no descriptor left", errno.EMFILE, _opens),
)


def run(
    here: Path, *, num_steps: int, commands: Sequence[str] = (*COMMANDS, PUSH), seed: int = 0
) -> list[Figure]:
    """Each fault from `num_steps` steps of each command on; `here` is prepared as for the kills."""
    dice = random.Random(seed)
    figures = [_figure(fault.name) for fault in FAULTS]
    limited = _figure("file size limit")
    for name in commands:
        with (_Store if name == PUSH else _Place)(name, here) as place:
            for fault, figure in zip(FAULTS, figures, strict=True):
                place.try_at_steps(fault, figure, num_steps=num_steps)
            place.try_with_limits(limited, num_tries=num_steps, dice=dice)
    return [*figures, limited]


def _figure(name: str) -> Figure:
    bad = {"half outputs": 0, "lost files": 0, "debris": 0, "called done": 0, "internal errors": 0}
    return Figure(f"{name} at each step", "tries", bad=bad)


class _Place:
    """The output of a command with files of the user in it, and what must not happen to them."""

    def __init__(self, name: str, here: Path) -> None:
        self._name, self._place = name, here / "faults" / name.replace(" ", "")
        self._out = self._place / "out"
        self._words = self._command(here)
        self._whole: dict[str, bytes] = {}

    def _command(self, here: Path) -> list[str]:
        return COMMANDS[self._name](here, self._out)

    def __enter__(self) -> _Place:
        status, said = self._run(None, 0)
        assert status == 0, said
        self._whole = contents(self._out)
        for path, data in MINE.items():
            (self._out / path).parent.mkdir(exist_ok=True)
            (self._out / path).write_bytes(data)
        return self

    def __exit__(self, *_error: object) -> None:
        shutil.rmtree(self._place)

    def try_at_steps(self, fault: Fault, figure: Figure, *, num_steps: int) -> None:
        """Spread over all the steps there are, the first and the last among them."""
        num_all = self._count_steps(fault)
        for index in range(min(num_steps, num_all)):
            step = 1 + index * (num_all - 1) // max(1, min(num_steps, num_all) - 1)
            self._judge(figure, *self._run(fault, step), what=f"{self._name}, step {step} of {num_all}")
        self._tidy(figure)

    def _count_steps(self, fault: Fault) -> int:
        _, said = self._run(fault, sys.maxsize)
        return int(said.rpartition("steps=")[2])

    def try_with_limits(self, figure: Figure, *, num_tries: int, dice: random.Random) -> None:
        """No file may become larger than a random size."""
        largest = max(len(data) for data in self._whole.values())
        for _ in range(num_tries):
            limit = int(largest ** dice.uniform(0, 1))
            self._judge(figure, *self._run(None, 0, limit=limit), what=f"{self._name}, {limit} bytes")
        self._tidy(figure)

    def _run(
        self, fault: Fault | None, step: int, *, limit: int | None = None, words: list[str] | None = None
    ) -> tuple[int, str]:
        """The exit status of the command, or of these words, and what it said on stderr."""
        # A pipe, since a file might not grow as far as what is said.
        said, saying = FORKING.Pipe(duplex=False)
        child = FORKING.Process(
            target=_child, args=(words or self._words, str(self._place), saying, fault, step, limit)
        )
        with said:
            child.start()
            saying.close()
            with open(said.fileno(), "rb", closefd=False) as text:
                found = text.read().decode(errors="replace")
            child.join()
        return child.exitcode or 0, found

    def _judge(self, figure: Figure, status: int, said: str, *, what: str) -> None:
        figure.num_tries += 1
        found = contents(self._out)
        lost = sum(found.pop(path, None) != data for path, data in MINE.items())
        bad = {
            "half outputs": found != self._whole,
            "lost files": lost,
            "called done": status == 0 and found != self._whole,
            "internal errors": status == _BUG or status < 0 or "Traceback" in said,
        }
        for kind, number in bad.items():
            if number:
                figure.count(kind, int(number))
                figure.notes.append(f"{what}: {kind}: {said.strip()[-300:]}")

    def _tidy(self, figure: Figure) -> None:
        """The next run succeeds and leaves nothing but the output."""
        status, said = self._run(None, 0)
        if status != 0:
            figure.count("debris")
            figure.notes.append(f"{self._name}: the next run failed: {said.strip()[-300:]}")
        left = [path.name for path in self._place.iterdir() if path.name != "out"]
        figure.count("debris", len(left))
        figure.notes += left


class _Store(_Place):
    """A store that an engine is pushed to: nothing half is pulled from it, and the next push ends it."""

    def _command(self, here: Path) -> list[str]:
        return ["engines", "push", str(here / "engine"), f"file://{self._place}/store"]

    def __enter__(self) -> _Store:
        status, said = self._run(None, 0)
        assert status == 0, said
        assert self._pulls()
        self._whole = contents(self._out)
        self._empty()
        return self

    def _count_steps(self, fault: Fault) -> int:
        steps = super()._count_steps(fault)
        self._empty()
        return steps

    def _empty(self) -> None:
        shutil.rmtree(self._place / "store", ignore_errors=True)

    def _pulls(self) -> bool:
        """Whether the store gives an engine; it lies in `out` then."""
        words = ["engines", "pull", f"file://{self._place}/store", "--out", str(self._out), "--force"]
        return self._run(None, 0, words=words)[0] == 0

    def _judge(self, figure: Figure, status: int, said: str, *, what: str) -> None:
        figure.num_tries += 1
        is_there = self._pulls()
        is_whole = is_there and contents(self._out) == self._whole
        bad = {
            "half outputs": is_there and not is_whole,
            "called done": status == 0 and not is_whole,
            "internal errors": status == _BUG or status < 0 or "Traceback" in said,
        }
        for kind in (kind for kind, found in bad.items() if found):
            figure.count(kind)
            figure.notes.append(f"{what}: {kind}: {said.strip()[-300:]}")
        if self._run(None, 0)[0] != 0 or not self._pulls():
            figure.count("debris")
            figure.notes.append(f"{what}: the next push did not end it")
        self._empty()

    def _tidy(self, figure: Figure) -> None:
        """Each try was tidied by the push after it."""


def _child(
    words: list[str], place: str, saying: Connection, fault: Fault | None, step: int, limit: int | None
) -> None:
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    os.dup2(saying.fileno(), 2)
    steps = [0]
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if fault is not None:
        sys.addaudithook(_hook(fault, place, step, steps))
    status = main(words)
    os.write(2, f"steps={steps[0]}".encode())
    os._exit(status)


def _hook(fault: Fault, place: str, step: int, steps: list[int]) -> Callable[[str, tuple[Any, ...]], None]:
    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if not fault.meets(event, arguments):
            return
        paths = [os.fsdecode(one) for one in arguments[:2] if isinstance(one, str | bytes | os.PathLike)]
        if not any(path.startswith(place) for path in paths):
            return
        steps[0] += 1
        if steps[0] >= step:
            raise OSError(fault.number, os.strerror(fault.number), paths[0])

    return hook
