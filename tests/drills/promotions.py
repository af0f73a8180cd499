"""Drill: `tpforge promote` killed in each of its phases, under load, and promoted and put back afterwards.

The servers, the router and the signals are real; no cluster is asked.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.drills.figures import Figure
from tests.e2e.conftest import Engine
from tests.e2e.test_promote import Load, loaded
from tests.e2e.test_promote_interrupted import promotion
from tests.e2e.test_promote_secured import installed
from tests.support.patience import PATIENCE_S, wait_until
from tests.support.ports import free_ports
from tpforge.outputs.places import ROUTER_FOLDER
from triton_repo.promote.router import Router
from triton_repo.serve.local import Server
from triton_repo.serve.security import Security

PHASES = ("smoke test of", "smoke test:", "canary:", "shifted", "watched")
"""The beginning of the line on stderr at which it is killed; the last is a moment after the shift."""


def run(folder: Path, engine: Engine, *, phases: Sequence[str] = PHASES) -> Figure:
    """Kill a promotion of green in each phase: clients lose nothing, and the next promotion does its work."""
    figure = Figure("promote killed in each phase", "kills")
    figure.bad = {"requests lost": 0, "clients hung": 0, "wrong server active": 0, "not gone on with": 0}
    folder.mkdir()
    with contextlib.chdir(folder), ExitStack() as stack:
        blue, green = (stack.enter_context(installed(name, engine, Security())) for name in ("blue", "green"))
        stack.callback(Router(ROUTER_FOLDER).stop)
        port = free_ports().grpc
        assert not (said := _promote("blue", port)), said
        with loaded(f"127.0.0.1:{port}") as loads:
            for phase in phases:
                _killed(figure, phase, port, blue=blue, green=green, loads=loads)
            num_answers = sum(len(load.answers) for load in loads)
            figure.count("requests lost", sum(len(load.errors) for load in loads))
        figure.notes += [error for load in loads for error in load.errors][:5]
        figure.notes.append(f"{num_answers} requests, {len(phases)} promotions and as many ways back beside")
    return figure


def _killed(
    figure: Figure, phase: str, port: int, *, blue: Server, green: Server, loads: Sequence[Load]
) -> None:
    with promotion("green", port, "--requests", "20") as child:
        assert child.stderr is not None
        for line in child.stderr:
            if line.startswith("shifted" if phase == "watched" else phase):
                if phase == "watched":
                    wait_until(lambda: _begun(green) > 0, "the watch asks green")
                child.kill()
                break
        child.communicate(timeout=PATIENCE_S)
    figure.num_tries += 1
    active = Router(ROUTER_FOLDER).status().active.target
    # It may shift before the kill reaches it, where the shift is what comes next.
    right = {"canary:": (blue, green), "shifted": (green,), "watched": (green,)}.get(phase, (blue,))
    figure.count("wrong server active", int(active not in [server.grpc_url for server in right]))
    figure.count("clients hung", int(not _go_on(loads)))
    for name, server, fallback in (("green", green, "blue"), ("blue", blue, "green")):
        # A promotion that was killed after its shift has to be told what to go back to.
        why = _promote(name, port, "--fallback", fallback)
        if why or Router(ROUTER_FOLDER).status().active.target != server.grpc_url:
            figure.count("not gone on with")
            figure.notes.append(f"after {phase}, {name}: {why}")


def _promote(name: str, port: int, *more: str) -> str:
    """Why it did not do its work; nothing when it did."""
    with promotion(name, port, "--requests", "4", *more) as child:
        said = child.communicate(timeout=PATIENCE_S)[1]
    return "" if child.returncode == os.EX_OK else said.strip()[-500:]


def _begun(server: Server) -> int:
    return Router(ROUTER_FOLDER).status().begun.get(server.grpc_url, 0)


def _go_on(loads: Sequence[Load]) -> bool:
    """Whether every client gets another answer."""
    before = [len(load.answers) + len(load.errors) for load in loads]
    try:
        wait_until(
            lambda: all(len(load.answers) > num for load, num in zip(loads, before, strict=True)),
            "every client gets another answer",
        )
    except AssertionError:
        return False
    return True
