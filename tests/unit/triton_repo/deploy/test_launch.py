"""Process 1 of a deployment: what it tells its children and when, with scripts in the place of Triton.

tests/e2e/test_drain.py has the same with the real Triton and mpirun.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.support.ports import free_ports
from triton_repo.deploy import files

pytestmark = pytest.mark.apart

TOLD = 'trap "echo told >>{0}; exit 0" TERM; echo up >>{0}; while :; do sleep 0.1; done'


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def server(folder: Path, name: str, text: str = TOLD) -> Path:
    """A program called tritonserver that writes that it is up, and that it was told to end."""
    return script(folder / name / "tritonserver", text.format(folder / name / "said"))


def said(folder: Path, name: str) -> str:
    path = folder / name / "said"
    return path.read_text() if path.exists() else ""


def until(happened: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has named a signal that it wants to hear."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = next(line.split()[1] for line in lines if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (number - 1) & 1)


def launch(
    folder: Path, *words: str, grace: float = 600, before: tuple[str, ...] = ()
) -> subprocess.Popen[str]:
    (folder / "launch.py").write_text(files.launch())
    command = [*before, sys.executable, str(folder / "launch.py"), "--grace", str(grace), *words]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def ranks(folder: Path) -> Path:
    """As mpirun: two servers, of which the second has the ranks' model alone."""
    first, second = server(folder, "first"), server(folder, "second")
    return script(folder / "mpirun", f'{first} "$1" & {second} --load-model=tensorrt_llm & wait')


def test_the_server_that_answers_is_told_first_and_the_ranks_when_it_has_ended(tmp_path: Path) -> None:
    waits = "until [ -e {0}.done ]; do sleep 0.1; done; echo done >>{0}"
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        mpirun = ranks(tmp_path)
        server(tmp_path, "first", f'trap "echo told >>{{0}}" TERM; echo up >>{{0}}; {waits}')
        process = launch(tmp_path, str(mpirun), f"--http-port={listening.getsockname()[1]}")
        until(lambda: said(tmp_path, "first") and said(tmp_path, "second"))
        process.terminate()
        until(lambda: "told" in said(tmp_path, "first"))
        assert said(tmp_path, "second") == "up\n" and process.poll() is None
        (tmp_path / "first" / "said.done").touch()
        _, text = process.communicate()
    assert (process.returncode, said(tmp_path, "first")) == (0, "up\ntold\ndone\n")
    assert "requests in flight have 600 s" in text and "nothing is in flight" in text


def test_a_server_that_still_loads_has_nothing_in_flight_and_is_ended_at_once(tmp_path: Path) -> None:
    port = free_ports().http
    stubborn = server(tmp_path, "first", 'trap "" TERM; echo up >>{0}; exec sleep 1000')
    process = launch(tmp_path, str(stubborn), f"--http-port={port}")
    until(lambda: said(tmp_path, "first"))
    process.terminate()
    process.communicate()
    assert process.returncode == 0


def test_told_twice_it_ends_all_at_once_and_says_that_requests_fail(tmp_path: Path) -> None:
    stubborn = server(
        tmp_path, "first", 'trap "echo told >>{0}" TERM; echo up >>{0}; while :; do sleep 0.1; done'
    )
    process = launch(tmp_path, str(stubborn))
    until(lambda: said(tmp_path, "first"))
    process.terminate()
    until(lambda: "told" in said(tmp_path, "first"))
    process.terminate()
    _, text = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM and "what is in flight fails" in text


def test_ranks_end_too_when_nobody_reads_the_log_any_more(tmp_path: Path) -> None:
    process = launch(tmp_path, str(server(tmp_path, "first")))
    until(lambda: said(tmp_path, "first"))
    assert process.stderr is not None
    process.stderr.close()
    process.terminate()
    assert process.wait() == 0
    assert said(tmp_path, "first") == "up\ntold\n"


@pytest.mark.parametrize(("command", "status"), [("exit 7", 7), ("kill -9 $$", 137)])
def test_what_ends_by_itself_gives_its_status(command: str, status: int, tmp_path: Path) -> None:
    process = launch(tmp_path, "sh", "-c", command)
    process.communicate()
    assert process.returncode == status


def test_another_rank_of_a_batch_job_ends_when_the_first_one_lets_it(tmp_path: Path) -> None:
    rank = server(
        tmp_path,
        "second",
        'trap "echo told >>{0}" TERM; echo up >>{0}; until [ -e {0}.done ]; do sleep 0.1; done',
    )
    process = launch(tmp_path, "--follow", str(rank), "--load-model=tensorrt_llm")
    until(lambda: said(tmp_path, "second"))
    process.terminate()
    assert process.stderr is not None and "told to end" in process.stderr.readline()
    (tmp_path / "second" / "said.done").touch()
    process.communicate()
    assert (process.returncode, said(tmp_path, "second")) == (0, "up\n")


SERVES = """import signal, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"first ")
        while not Path("go").exists():
            time.sleep(0.02)
        self.wfile.write(b"last")
class Server(ThreadingHTTPServer):
    daemon_threads = False
def told(_number, _frame):
    Path("told").touch()
    threading.Thread(target=server.shutdown).start()
words = sys.argv[1:]
server = Server((words[words.index("--host") + 1], int(words[words.index("--port") + 1])), Handler)
signal.signal(signal.SIGTERM, told)
server.serve_forever()
server.server_close()
"""
"""As uvicorn does: it listens no more at once, and ends when what it answers is answered."""


def trtllm_serve(folder: Path) -> Path:
    path = script(folder / "bin" / "trtllm-serve", "")
    path.write_text(f"#!{sys.executable}\n{SERVES}")
    return path


def test_trtllm_serve_answers_what_it_has_and_is_ended_when_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    port = free_ports().http
    words = ("serve", "model", "--host", "127.0.0.1", "--port", str(port))
    # As on Slurm, where a script starts the server beside what the other ranks wait for.
    launcher = script(tmp_path / "trtllm-llmapi-launch", '"$@" & child=$!; wait $child; wait $child')
    process = launch(tmp_path, str(launcher), str(trtllm_serve(tmp_path)), *words)
    until(lambda: accepts(port))
    connection = HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/")
    answer = connection.getresponse()
    assert answer.read(6) == b"first "
    process.terminate()
    until((tmp_path / "told").exists)
    assert process.poll() is None, "a stream is in flight"
    (tmp_path / "go").touch()
    assert answer.read() == b"last"
    _, text = process.communicate()
    assert process.returncode == 0 and "nothing is in flight" in text


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def test_trtllm_serve_that_still_loads_is_ended_at_once(tmp_path: Path) -> None:
    loads = script(
        tmp_path / "bin" / "trtllm-serve", f'trap "" TERM; echo up >{tmp_path}/up; exec sleep 1000'
    )
    process = launch(tmp_path, str(loads), "serve", "model", "--port", str(free_ports().http))
    until((tmp_path / "up").exists)
    process.terminate()
    process.communicate()
    assert process.returncode == 0


def test_a_process_that_the_server_forked_is_left_to_it(tmp_path: Path) -> None:
    forks = "import os, signal, sys, time\nfrom pathlib import Path\n"
    forks += "name = 'parent' if os.fork() else 'child'\n"
    forks += "def told(*_): Path(name).write_text('told'); sys.exit()\n"
    forks += "signal.signal(signal.SIGTERM, told)\nPath(name).write_text('up')\ntime.sleep(1000)\n"
    server = script(tmp_path / "bin" / "trtllm-serve", "")
    server.write_text(f"#!{sys.executable}\n{forks.replace('Path(name)', f'Path({str(tmp_path)!r}, name)')}")
    process = launch(tmp_path, str(server), "serve", "model")
    until(lambda: (tmp_path / "parent").exists() and (tmp_path / "child").exists())
    process.terminate()
    process.communicate()
    assert (tmp_path / "parent").read_text() == "told"
    assert (tmp_path / "child").read_text() == "up", "the launcher ends it, as all that is left"


def test_servers_of_others_on_this_machine_are_not_told(tmp_path: Path) -> None:
    foreign = subprocess.Popen([str(server(tmp_path, "foreign"))])
    try:
        process = launch(tmp_path, str(server(tmp_path, "first")))
        until(lambda: said(tmp_path, "first") and said(tmp_path, "foreign"))
        process.terminate()
        process.communicate()
        assert (said(tmp_path, "first"), said(tmp_path, "foreign")) == ("up\ntold\n", "up\n")
    finally:
        foreign.kill()
        foreign.wait()


@pytest.mark.parametrize("program", ["tritonserver", "trtllm-llmapi-launch"])
def test_a_worker_holds_the_ranks_that_others_start_in_it_until_they_have_ended(
    program: str, tmp_path: Path
) -> None:
    own = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    if (
        shutil.which("unshare") is None
        or subprocess.run([*own, "true"], check=False, stderr=subprocess.PIPE).returncode
    ):
        pytest.skip("no process namespace of one's own here (unshare --pid)")
    waits = "echo up >>{0}; until [ -e {0}.done ]; do sleep 0.1; done"
    rank = script(tmp_path / "rank" / program, waits.format(tmp_path / "rank" / "said"))
    # As kubectl exec: the rank is started by a shell beside process 1, which this one becomes.
    (tmp_path / "launch.py").write_text(files.launch())
    hold = f"{sys.executable} {tmp_path / 'launch.py'} --grace 600"
    pod = subprocess.Popen(
        [*own, "sh", "-c", f"{rank} --load-model=tensorrt_llm & exec {hold}"],
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: said(tmp_path, "rank"))
    (first,) = Path(f"/proc/{pod.pid}/task/{pod.pid}/children").read_text().split()
    until(lambda: b"launch.py" in Path(f"/proc/{first}/cmdline").read_bytes())
    until(lambda: catches(int(first), signal.SIGTERM))
    os.kill(int(first), signal.SIGTERM)
    assert pod.stderr is not None and "told to end" in pod.stderr.readline()
    assert pod.poll() is None, "the ranks of a worker were killed while the leader drains"
    (tmp_path / "rank" / "said.done").touch()
    pod.communicate()
    assert pod.returncode == 0
