"""Drill: the clock of day is set a day forth, and back, under streams; a part is killed each time.

The clock of the machine stays: Python's `time.time` jumps in every Python process of the server, such as the
supervisor and the models. Other libraries read the true clock.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from engines import reference
from tests.drills.figures import Figure
from tests.drills.parts import LIMIT_S, PARTS, answers
from tests.e2e.conftest import Engine, quiet
from tests.support.ended import end_server
from tests.support.patience import wait_until
from tests.support.ports import free_ports
from tpforge.errors import TpforgeError
from tpforge.repository_options import ReferenceOptions
from triton_repo.client.client import Client
from triton_repo.render.repository import render
from triton_repo.serve.heartbeat import EVERY_S
from triton_repo.serve.local import ServeOptions, Server, serve, status

_JUMPING = """
import datetime, os, time

_time, _time_ns, _DAY, _FLAG, _SEEN = time.time, time.time_ns, 86400, {flag!r}, {seen!r}

def _jump():
    return _DAY if os.path.exists(_FLAG) else 0

class _Datetime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(seconds=_jump())

time.time = lambda: _time() + _jump()
time.time_ns = lambda: _time_ns() + 10**9 * _jump()
datetime.datetime = _Datetime
open(os.path.join(_SEEN, str(os.getpid())), "w").close()
"""
_FUTURE = "from __future__ import annotations\n"
NUM_CLIENTS = 4


class Asking(threading.Thread):
    """Asks for streams of 200 tokens, one after another, until the first error or until it is told to end."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url, self.told, self.num_answered = url, threading.Event(), 0
        self.error: str | None = None

    def run(self) -> None:
        try:
            with Client(self.url, deadline_s=LIMIT_S) as client:
                while not self.told.is_set():
                    client.generate("the capital of", max_tokens=200, min_tokens=200)
                    self.num_answered += 1
        except TpforgeError as error:
            self.error = str(error)


def run(folder: Path, engine: Engine) -> Figure:
    """A server whose clock jumps twice; streams go on, and what is killed comes back."""
    flag, seen, code = folder / "a-day-later", folder / "seen", folder / "code"
    for made in (seen, code):
        made.mkdir(parents=True)
    jumping = _JUMPING.format(flag=str(flag), seen=str(seen))
    (code / "sitecustomize.py").write_text(jumping, encoding="utf-8")
    bad = {"streams lost": 0, "hung": 0, "restarts": 0}
    figure = Figure("clock set a day forth and back", "jumps", bad=bad)
    with _served(engine, folder, jumping=jumping, code=code) as server:
        pids = {int(path.name) for path in seen.iterdir()}
        wanted = {server.pid, PARTS["stub"](server)}
        assert wanted <= pids, f"the clock jumps in {pids}, not in {wanted}"
        for jump in (flag.touch, flag.unlink):
            _jump(server, jump, figure)
    return figure


@contextmanager
def _served(engine: Engine, folder: Path, *, jumping: str, code: Path) -> Iterator[Server]:
    """A server whose supervisor finds `code` on its path, and whose models begin with `jumping`."""
    options = ReferenceOptions(executor="lockstep", num_threads=1)
    out, source = folder / "repository", Path(reference.__file__).parent
    rendered = render(engine.folder, engine.manifest, out=out, runtime_source=source, options=options)
    for model in rendered.path.glob("*/1/model.py"):
        text = model.read_text(encoding="utf-8")
        assert _FUTURE in text
        model.write_text(text.replace(_FUTURE, _FUTURE + jumping, 1), encoding="utf-8")
    where = ServeOptions(state_dir=folder / "server", ports=free_ports(), detach=True)
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = str(code)
    try:
        yield serve(rendered.path, options=where, progress=quiet)
    finally:
        os.environ["PYTHONPATH"] = before
        end_server(where.state_dir)


def _jump(server: Server, jump: Callable[[], None], figure: Figure) -> None:
    figure.num_tries += 1
    restarts = status(server.state_dir).restarts
    clients = [Asking(server.grpc_url) for _ in range(NUM_CLIENTS)]
    for client in clients:
        client.start()
    wait_until(lambda: all(client.num_answered for client in clients), "each is answered")
    jump()
    time.sleep(2 * EVERY_S)  # The supervisor looks twice meanwhile.
    figure.count("streams lost", sum(client.error is not None for client in clients))
    figure.count("restarts", status(server.state_dir).restarts - restarts)
    begun = time.monotonic()
    os.kill(PARTS["stub"](server), signal.SIGKILL)
    for client in clients:
        client.told.set()
        client.join(LIMIT_S)
        figure.count("hung", int(client.is_alive()))
    figure.count("hung", int(not answers(server, begun + LIMIT_S)))
    figure.took("from a kill to service", time.monotonic() - begun)
    wait_until(lambda: status(server.state_dir).phase == "ready", "it is ready again")
