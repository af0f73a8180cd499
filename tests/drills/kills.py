"""Drill: kill -9 at random moments of every command that writes a folder. No server is started."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

from engines.store import MANIFEST_NAME, read_manifest
from scripts.main import main
from tests.drills.figures import Figure
from tests.support.forked import FORKING
from tests.support.tiny_engine import write_tiny_engine
from tpforge.outputs.written import RECORD_NAME

Words = Callable[[Path, Path], list[str]]

COMMANDS: dict[str, Words] = {
    "convert": lambda here, out: ["convert", str(here / "source"), "--tp", "2", "--out", str(out), "--force"],
    "build": lambda here, out: ["build", str(here / "source"), "--tp", "2", "--out", str(out), "--force"],
    "build --quantize": lambda here, out: [
        *["build", str(here / "source"), "--tp", "2", "--quantize", "int8_wo", "--out", str(out), "--force"],
    ],
    "render": lambda here, out: ["render", str(here / "engine"), "--out", str(out), "--force"],
    "deploy --force": lambda here, out: [
        *["deploy", str(here / "engine"), "--target", "compose", "--out", str(out), "--force"],
    ],
    "engines pull": lambda here, out: [
        "engines",
        "pull",
        f"file://{here}/store",
        "--out",
        str(out),
        "--force",
    ],
}
MINE = {"credentials.env": b"KEY=1", "mine/notes.md": b"of the user"}


def prepare(here: Path) -> None:
    """A tiny model, an engine of it, and the same at a URL."""
    write_tiny_engine(here, tp_size=2)
    with contextlib.redirect_stdout(sys.stderr):
        assert main(["engines", "push", str(here / "engine"), f"file://{here}/store"]) == 0


def run(here: Path, *, num_kills: int, seed: int = 0) -> list[Figure]:
    """Kill each command `num_kills` times."""
    dice = random.Random(seed)
    figures = [_kill_command(name, here, num_kills=num_kills, dice=dice) for name in COMMANDS]
    return [*figures, _kill_push(here, num_kills=num_kills, dice=dice)]


def contents(folder: Path) -> dict[str, bytes]:
    """The files of an output, without its record."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != RECORD_NAME
    }


def _kill_command(name: str, here: Path, *, num_kills: int, dice: random.Random) -> Figure:
    figure = Figure(f"kill -9 of {name}", "kills", bad={"half outputs": 0, "lost files": 0, "debris": 0})
    place = here / "kills" / name.replace(" ", "")
    out = place / "out"
    words = COMMANDS[name](here, out)
    assert _run(words)
    begun = time.monotonic()
    assert _run(words)
    usual_s = time.monotonic() - begun
    whole = contents(out)
    for path, data in MINE.items():
        (out / path).parent.mkdir(exist_ok=True)
        (out / path).write_bytes(data)
    for _ in range(num_kills):
        child = _start(words)
        time.sleep(usual_s * dice.uniform(0, 1.05))
        _end(child)
        figure.num_tries += 1
        found = contents(out)
        figure.count("lost files", sum(found.pop(path, None) != data for path, data in MINE.items()))
        figure.count("half outputs", int(found != whole))
    assert _run(words)
    figure.count("lost files", sum((out / path).read_bytes() != data for path, data in MINE.items()))
    left = [path.name for path in place.iterdir() if path.name != "out"]
    figure.count("debris", len(left))
    figure.notes += left
    shutil.rmtree(place)
    return figure


def _kill_push(here: Path, *, num_kills: int, dice: random.Random) -> Figure:
    figure = Figure("kill -9 of engines push", "kills", bad={"pulled though half": 0, "not gone on with": 0})
    place = here / "kills" / "push"
    words = ["engines", "push", str(here / "engine"), f"file://{place}/store"]
    assert _run(words)
    begun = time.monotonic()
    assert _run(words)
    usual_s = time.monotonic() - begun
    # What engine.json lists is pushed; a person's files beside it are not.
    listed = {MANIFEST_NAME, *(file.path for file in read_manifest(here / "engine").files)}
    whole = {path: data for path, data in contents(here / "engine").items() if path in listed}
    for _ in range(num_kills):
        shutil.rmtree(place)
        child = _start(words)
        time.sleep(usual_s * dice.uniform(0, 1.05))
        _end(child)
        figure.num_tries += 1
        pull = ["engines", "pull", f"file://{place}/store", "--out", str(place / "out"), "--force"]
        if _run(pull):
            figure.count("pulled though half", int(contents(place / "out") != whole))
        again = _run(words) and _run(pull)
        figure.count("not gone on with", int(not again or contents(place / "out") != whole))
    shutil.rmtree(place, ignore_errors=True)
    return figure


def _start(words: list[str]) -> BaseProcess:
    child = FORKING.Process(target=_child, args=(words,))
    child.start()
    return child


def _run(words: list[str]) -> bool:
    """Whether a command did it."""
    child = _start(words)
    child.join()
    return child.exitcode == 0


def _end(child: BaseProcess) -> None:
    child.kill()
    child.join()


def _child(words: list[str]) -> None:
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    sys.exit(main(words))
