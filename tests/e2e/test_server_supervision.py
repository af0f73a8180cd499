"""The server's life on the real tritonserver: start, death of a part, restart, stop, and what it leaves."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

import pytest

from tests.e2e.echo import with_placeholder, write_echo
from tests.support.ended import end_server
from tests.support.patience import PATIENCE_S, wait_until
from tests.support.ports import free_ports
from tpforge.errors import EnvironmentUnusable, InputRefused, TpforgeError
from triton_repo.client.client import Client, RequestRefused, ServerUnreachable
from triton_repo.serve import local, processes
from triton_repo.serve.local import ServeOptions, Server, list_servers, serve, status, stop
from triton_repo.serve.state import ServerState, read_state

pytestmark = [pytest.mark.e2e, pytest.mark.apart]

LONG = 50_000
"""Words of an answer that takes a quarter of an hour: it never ends by itself during a test."""


def quiet(_message: str) -> None:
    pass


@contextmanager
def echo_server(folder: Path, *, drain_s: float = 8) -> Iterator[Server]:
    state_dir = folder / "name" / "server"
    options = ServeOptions(state_dir=state_dir, ports=free_ports(), detach=True, drain_s=drain_s)
    server = serve(write_echo(folder / "repository"), options=options, progress=quiet)
    try:
        yield server
    finally:
        end_server(options.state_dir)


def leftovers(mark: str) -> tuple[list[processes.ProcessId], list[Path]]:
    return processes.marked(mark), list(processes.SHARED_MEMORY.glob(f"{mark}*"))


def mark_of(server: Server) -> str:
    state = read_state(server.state_dir)
    assert state is not None
    return state.mark


def stub_of(server: Server) -> processes.ProcessId:
    state = read_state(server.state_dir)
    assert state is not None and state.server is not None
    return next(iter(processes.stubs_of(state.server.pid)))


class Reader(Thread):
    """Reads a long stream; keeps what it got and how it ended."""

    def __init__(self, client: Client) -> None:
        super().__init__(daemon=True)
        self.client, self.words, self.error, self.flowing = client, 0, "", Event()

    def run(self) -> None:
        try:
            for _ in self.client.chunks("a b c", max_tokens=LONG, deadline_s=PATIENCE_S):
                self.words += 1
                if self.words == 3:
                    self.flowing.set()
        except Exception as error:
            self.error = f"{type(error).__name__}: {error}"


def test_killed_model_process_breaks_streams_and_the_server_comes_back(tmp_path: Path) -> None:
    with echo_server(tmp_path) as server, Client(server.grpc_url) as client:
        reader = Reader(client)
        reader.start()
        assert reader.flowing.wait(PATIENCE_S)
        mark = mark_of(server)
        os.kill(stub_of(server).pid, signal.SIGKILL)
        reader.join(PATIENCE_S)
        assert not reader.is_alive(), "the stream in flight hangs after its model process was killed"
        # Triton itself says that the stub is not healthy, if it notices before the supervisor acts.
        told = (ServerUnreachable.__name__, RequestRefused.__name__)
        assert reader.error.startswith(told), reader.error
        assert 3 <= reader.words < LONG

        def answers() -> bool:
            try:
                return client.generate("x y", max_tokens=3, deadline_s=30).text == " x y x"
            except (EnvironmentUnusable, InputRefused):
                return False

        wait_until(answers, "an answer after the restart")
        # The supervisor asks for an answer of its own before it says so.
        wait_until(lambda: status(server.state_dir).phase == "ready", "ready again")
        found = status(server.state_dir)
        assert found.restarts == 1
        assert found.last_failure is not None and "the process of model ensemble" in found.last_failure
    assert leftovers(mark) == ([], [])


def test_killed_tritonserver_is_started_again(tmp_path: Path) -> None:
    with echo_server(tmp_path) as server, Client(server.grpc_url) as client:
        state = read_state(server.state_dir)
        assert state is not None and state.server is not None
        os.kill(state.server.pid, signal.SIGKILL)
        wait_until(lambda: status(server.state_dir).restarts == 1, "the restart")
        wait_until(lambda: status(server.state_dir).phase == "ready", "ready")
        assert client.generate("x y", max_tokens=2).text == " x y"
        failure = status(server.state_dir).last_failure
        assert failure is not None and "ended by SIGKILL" in failure


def test_server_whose_supervisor_is_killed_ends_and_stop_cleans_up(tmp_path: Path) -> None:
    with echo_server(tmp_path) as server:
        mark = mark_of(server)
        assert list(processes.SHARED_MEMORY.glob(f"{mark}*")), "the prefix of the shared memory is not used"
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: leftovers(mark) == ([], []), "the end of all it left")
        assert status(server.state_dir).phase == "crashed"
        assert stop(server.state_dir).phase == "crashed"
        assert leftovers(mark) == ([], [])
        assert status(server.state_dir).phase == "stopped"


def test_serve_cleans_up_after_a_killed_supervisor_and_takes_its_place(tmp_path: Path) -> None:
    with echo_server(tmp_path) as server:
        mark = mark_of(server)
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: not processes.identify(server.pid), "the supervisor's end")
        options = ServeOptions(state_dir=server.state_dir, ports=server.ports, detach=True)
        again = serve(server.repository, options=options, progress=quiet)
        assert leftovers(mark) == ([], [])
        assert mark_of(again) != mark
        assert (server.state_dir / "triton.log.1").is_file()


def test_stop_leaves_no_process_and_no_shared_memory(tmp_path: Path) -> None:
    with echo_server(tmp_path) as server:
        mark = mark_of(server)
        assert [found.phase for found in list_servers(tmp_path)] == ["ready"]
        assert stop(server.state_dir).phase == "ready"
        assert leftovers(mark) == ([], [])
        assert list_servers(tmp_path) == ()
        assert not processes.identify(server.pid)
        assert stop(server.state_dir).phase == "stopped"


def test_second_server_of_a_folder_is_refused_and_the_first_lives_on(tmp_path: Path) -> None:
    with echo_server(tmp_path) as server:
        options = ServeOptions(state_dir=server.state_dir, ports=free_ports(), detach=True)
        with pytest.raises(EnvironmentUnusable, match=r"runs already.*tpforge stop"):
            serve(server.repository, options=options, progress=quiet)
        assert status(server.state_dir).phase == "ready"


def test_port_in_use_is_refused_by_name_before_anything_starts(tmp_path: Path) -> None:
    ports = free_ports()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports.grpc))
        taken.listen()
        options = ServeOptions(state_dir=tmp_path / "server", ports=ports, detach=True)
        with pytest.raises(EnvironmentUnusable) as caught:
            serve(write_echo(tmp_path / "repository"), options=options, progress=quiet)
    assert f"port {ports.grpc} (gRPC) is in use by process {os.getpid()}" in str(caught.value)
    assert "--port-base" in str(caught.value)
    assert not (tmp_path / "server" / "triton.log").exists()


@pytest.mark.parametrize(
    ("initialize", "reason"),
    [
        ("raise ValueError('engine.json: not found')", "model ensemble: ValueError: engine.json: not found"),
        ("import not_there", "model ensemble: ModuleNotFoundError: No module named 'not_there'"),
        ("os._exit(3)", "its process died while it loaded"),
    ],
)
def test_model_that_fails_to_load_is_reported_with_its_own_reason(
    tmp_path: Path, initialize: str, reason: str
) -> None:
    options = ServeOptions(state_dir=tmp_path / "server", ports=free_ports(), detach=True)
    with pytest.raises(InputRefused) as caught:
        serve(write_echo(tmp_path / "repository", initialize=initialize), options=options, progress=quiet)
    assert reason in str(caught.value)
    # Who started it was told; nothing is left that `status` would show or `stop` would ask about.
    assert status(options.state_dir).phase == "stopped"


def test_placeholder_in_a_config_is_reported_by_file_and_line(tmp_path: Path) -> None:
    repository = write_echo(tmp_path / "repository", config=with_placeholder())
    options = ServeOptions(state_dir=tmp_path / "server", ports=free_ports(), detach=True)
    with pytest.raises(InputRefused) as caught:
        serve(repository, options=options, progress=quiet)
    file = repository / "ensemble" / "config.pbtxt"
    assert f"{file}:12:27: Expected integer, got: $" in str(caught.value)


def test_model_without_its_file_is_reported_although_triton_hangs(tmp_path: Path) -> None:
    repository = write_echo(tmp_path / "repository")
    (repository / "ensemble" / "1" / "model.py").unlink()
    options = ServeOptions(state_dir=tmp_path / "server", ports=free_ports(), detach=True)
    with pytest.raises(InputRefused, match=r"Python model file not found in .*/ensemble/1/model\.py"):
        serve(repository, options=options, progress=quiet)


def test_model_that_never_finishes_loading_is_given_up_after_the_load_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[ServerState] = []
    told = local._failure

    def failure(found: ServerState) -> TpforgeError:
        states.append(found)
        return told(found)

    monkeypatch.setattr(local, "_failure", failure)
    repository = write_echo(tmp_path / "repository", initialize="time.sleep(1000)")
    options = ServeOptions(state_dir=tmp_path / "server", ports=free_ports(), detach=True, load_timeout_s=2)
    with pytest.raises(EnvironmentUnusable, match=r"not ready within 2\.0 s, still loading: ensemble"):
        serve(repository, options=options, progress=quiet)
    assert read_state(options.state_dir) is None
    assert leftovers(states[0].mark) == ([], [])


_FOREGROUND = """
import sys
from pathlib import Path
from triton_repo.serve.local import ServeOptions, serve
from triton_repo.serve.ports import Ports
ports = Ports.from_base(int(sys.argv[3]))
# Longer than a test has: nothing ends because requests in flight had their time.
options = ServeOptions(state_dir=Path(sys.argv[2]), ports=ports, drain_s=1000)
def ready(server):
    print("ready", flush=True)
serve(Path(sys.argv[1]), options=options, progress=lambda message: None, on_ready=ready)
print("ended", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_foreground_server_ends_in_order_on_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    repository = write_echo(tmp_path / "repository")
    command = [sys.executable, "-c", _FOREGROUND, str(repository), str(tmp_path / "server")]
    with subprocess.Popen([*command, str(free_ports().http)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        state = read_state(tmp_path / "server")
        assert state is not None
        process.send_signal(number)
        assert process.stdout.readline() == "ended\n"
        assert process.wait(PATIENCE_S) == 0
    assert leftovers(state.mark) == ([], [])


def test_a_hang_up_that_is_ignored_as_under_nohup_ends_no_server(tmp_path: Path) -> None:
    repository = write_echo(tmp_path / "repository")
    command = [sys.executable, "-c", _FOREGROUND, str(repository), str(tmp_path / "server")]
    ports = free_ports()
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = subprocess.Popen([*command, str(ports.http)], stdout=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGHUP, ignored)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGHUP)
        with Client(f"127.0.0.1:{ports.grpc}") as client:
            assert client.is_ready()
        assert status(tmp_path / "server").phase == "ready"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "ended\n"
        assert process.wait(PATIENCE_S) == 0


def test_a_request_in_flight_is_answered_while_a_server_ends_and_a_new_one_is_refused(tmp_path: Path) -> None:
    with (
        echo_server(tmp_path, drain_s=PATIENCE_S) as server,
        Client(server.grpc_url, deadline_s=PATIENCE_S) as client,
    ):
        flowing, words = Event(), []

        def read() -> None:
            for chunk in client.chunks("a b c", max_tokens=150):
                words.append(chunk)
                flowing.set()

        reader, ending = Thread(target=read), Thread(target=stop, args=(server.state_dir,))
        reader.start()
        assert flowing.wait(PATIENCE_S)
        ending.start()
        wait_until(lambda: status(server.state_dir).phase == "stopping", "it is stopping")
        refused = 0
        while ending.is_alive():
            with Client(server.grpc_url, deadline_s=60) as other, suppress(ServerUnreachable):
                try:
                    other.generate("late", max_tokens=1)
                except RequestRefused as error:
                    refused += 1
                    assert "no available versions" in str(error)
            Event().wait(0.1)
        reader.join()
        assert len(words) == 150
        assert refused > 0


def test_second_ctrl_c_kills_at_once_though_a_request_is_in_flight(tmp_path: Path) -> None:
    repository = write_echo(tmp_path / "repository")
    ports = free_ports()
    command = [sys.executable, "-c", _FOREGROUND, str(repository), str(tmp_path / "server"), str(ports.http)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        state = read_state(tmp_path / "server")
        assert state is not None
        with Client(f"127.0.0.1:{ports.grpc}") as client:
            reader = Reader(client)
            reader.start()
            assert reader.flowing.wait(PATIENCE_S)
            process.send_signal(signal.SIGINT)
            words = reader.words
            try:
                wait_until(lambda: reader.words > words + 10, "the stream goes on after the first Ctrl-C")
                process.send_signal(signal.SIGINT)
                assert process.wait(PATIENCE_S) == 0
            finally:
                process.kill()
            reader.join(PATIENCE_S)
            assert not reader.is_alive() and reader.words < LONG
    assert leftovers(state.mark) == ([], [])
