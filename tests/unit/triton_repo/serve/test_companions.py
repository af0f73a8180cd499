"""Programs beside a server, with real processes: who is started again, who ends when, and what is told."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.patience import PATIENCE_S
from tests.support.ports import free_ports
from tpforge.errors import EnvironmentUnusable
from triton_repo.serve import processes
from triton_repo.serve.companions import Companion, Companions, Proof, companions_mark
from triton_repo.serve.ports import NamedPort
from triton_repo.serve.readiness import Stopped

LISTENS_WHEN_TOLD = """
import pathlib, socket, time
while not pathlib.Path({file!r}).exists():
    time.sleep(0.02)
server = socket.create_server(("0.0.0.0", {port}))
time.sleep(600)
"""
WAITS = "import signal, sys, time; print('up', flush=True); time.sleep(600)"
NOTES_ITS_END = """
import signal, sys, time
def end(*_):
    open({file!r}, "a").write({name!r} + "\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("up", flush=True)
time.sleep(600)
"""
ANSWERS = """
import http.server
class Answer(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200 if b"right" in body else 400)
        self.end_headers()
server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
open({file!r}, "w").write(str(server.server_port))
server.serve_forever()
"""


class Place:
    """A folder with a mark, and what was told."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.mark, self.told = folder, f"tpforge-{uuid.uuid4().hex[:12]}", list[str]()

    def companion(
        self, name: str, code: str, *, follows: bool = False, proof: Proof | None = None
    ) -> Companion:
        words = (sys.executable, "-I", "-S", "-c", code)
        return Companion(
            name=name,
            words=words,
            environment={},
            log=self.folder / f"{name}.log",
            follows=follows,
            proof=proof,
            drain_s=10.0,
        )

    def companions(self, *found: Companion) -> Companions:
        return Companions(found, mark=self.mark, cwd=self.folder, progress=self.told.append)

    def pids(self) -> set[int]:
        return {process.pid for process in processes.marked(companions_mark(self.mark))}

    def is_up(self, name: str) -> bool:
        log = self.folder / f"{name}.log"
        return log.is_file() and "up" in log.read_text(encoding="utf-8")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path)
    yield found
    processes.kill_marked(companions_mark(found.mark))


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def never() -> bool:
    return False


def test_one_that_is_killed_is_told_of_and_started_again(place: Place) -> None:
    companions = place.companions(place.companion("front", WAITS))
    companions.start()
    until(lambda: place.is_up("front"))
    (first,) = place.pids()
    os.kill(first, signal.SIGKILL)

    def again() -> bool:
        companions.look()
        return bool(place.pids() - {first})

    until(again)
    assert place.told == ["its front was ended by SIGKILL; starting it again"]
    companions.kill()
    assert place.pids() == set()


def test_what_follows_the_server_ends_with_it_and_comes_back_with_the_next_start(place: Place) -> None:
    companions = place.companions(
        place.companion("front", WAITS), place.companion("worker", WAITS, follows=True)
    )
    companions.start()
    until(lambda: place.is_up("front") and place.is_up("worker"))
    both = place.pids()
    assert len(both) == 2
    companions.end_followers()
    (kept,) = place.pids()
    assert kept in both
    companions.start()
    assert len(place.pids() | {kept}) == 2
    assert place.told == []
    companions.kill()


def test_all_are_drained_from_the_last_to_the_first(place: Place) -> None:
    ends = place.folder / "ends"
    names = ("front", "worker")
    codes = [NOTES_ITS_END.format(file=str(ends), name=name) for name in names]
    companions = place.companions(*(place.companion(*pair) for pair in zip(names, codes, strict=True)))
    companions.start()
    until(lambda: all(place.is_up(name) for name in names))
    companions.drain(is_hurried=never)
    assert ends.read_text(encoding="utf-8").split() == ["worker", "front"]
    assert place.pids() == set()


def test_ready_is_who_answers_the_proof_with_200(place: Place) -> None:
    file = place.folder / "port"
    companions = place.companions(place.companion("front", ANSWERS.format(file=str(file))))
    companions.start()
    until(lambda: file.is_file() and bool(file.read_text(encoding="utf-8")))
    url = f"http://127.0.0.1:{file.read_text(encoding='utf-8')}/"
    running = place.companion("front", WAITS, proof=Proof(url=url, body={"model": "right"}))
    companions._all = (running,)
    companions.wait_ready(timeout_s=60, is_stopped=never)
    companions._all = (running.model_copy(update={"proof": Proof(url=url, body={"model": "wrong"})}),)
    with pytest.raises(Stopped):
        companions.wait_ready(timeout_s=60, is_stopped=lambda: True)
    with pytest.raises(EnvironmentUnusable, match="its front: not ready within 0 s: HTTP Error 400"):
        companions.wait_ready(timeout_s=0, is_stopped=never)
    companions.kill()


def test_ready_is_who_listens_on_its_ports_though_it_has_no_proof(place: Place) -> None:
    file, number = place.folder / "listen", free_ports().http
    front = place.companion("kserve", LISTENS_WHEN_TOLD.format(file=str(file), port=number))
    port = NamedPort(name="KServe", port=number, host="0.0.0.0")
    companions = place.companions(front.model_copy(update={"ports": (port,)}))
    companions.start()
    with pytest.raises(EnvironmentUnusable, match=f"nothing listens on port {number} .KServe."):
        companions.wait_ready(timeout_s=0, is_stopped=never)

    def listen_now() -> bool:
        file.touch()
        return False

    companions.wait_ready(timeout_s=60, is_stopped=listen_now)
    socket.create_connection(("127.0.0.1", number), timeout=60).close()
    companions.kill()


def test_one_that_ends_before_it_is_ready_is_told_of_with_the_end_of_its_log(place: Place) -> None:
    proof = Proof(url="http://127.0.0.1:9/", body={"model": "right"})
    companions = place.companions(
        place.companion("front", WAITS, proof=proof),
        place.companion("worker", "import sys; sys.exit('no such model')"),
    )
    companions.start()
    with pytest.raises(EnvironmentUnusable) as caught:
        companions.wait_ready(timeout_s=60, is_stopped=never)
    assert "its worker ended with exit status 1" in str(caught.value)
    assert "no such model" in str(caught.value)
    companions.kill()
