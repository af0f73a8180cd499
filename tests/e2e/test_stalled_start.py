"""A model's process that hangs while Triton loads, as by chance: the start is begun again and answers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest

from engines import reference
from tests.e2e.conftest import Engine
from tests.support.ports import free_ports
from tpforge.repository_options import ReferenceOptions
from triton_repo.client.client import Client
from triton_repo.render.repository import render
from triton_repo.serve import processes, stalled
from triton_repo.serve.local import ServeOptions, Server, serve, status
from triton_repo.serve.readiness import Stalled
from triton_repo.serve.state import read_state

pytestmark = pytest.mark.e2e

SHORT_S = 15.0
"""Instead of a minute; a process that loads is runnable for more than a tenth of that on any machine."""


@pytest.fixture
def repository(tiny_engine: Engine, tmp_path: Path) -> Path:
    rendered = render(
        tiny_engine.folder,
        tiny_engine.manifest,
        out=tmp_path / "repository",
        runtime_source=Path(reference.__file__).parent,
        options=ReferenceOptions(executor="processes", num_threads=1),
        force=False,
    )
    return rendered.path


@contextmanager
def stopping(state_dir: Path, model: str, *, times: int) -> Iterator[list[int]]:
    """Stops so many processes of `model`, which may have two, as soon as they are there; their pids."""
    stopped: list[int] = []
    over = Event()

    def watch() -> None:
        while not over.wait(0.005) and len(stopped) < times:
            found = read_state(state_dir)
            if found is None or found.server is None:
                continue
            for stub, name in processes.stubs_of(found.server.pid).items():
                if name == model and len(stopped) < times:
                    os.kill(stub.pid, signal.SIGSTOP)
                    stopped.append(stub.pid)

    thread = Thread(target=watch)
    thread.start()
    try:
        yield stopped
    finally:
        over.set()
        thread.join()


def test_a_stub_that_hangs_in_the_first_start_costs_one_more_start(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stalled, "QUIET_S", SHORT_S)
    options = ServeOptions(state_dir=tmp_path / "server", ports=free_ports())
    said: list[str] = []

    def ask_and_end(server: Server) -> None:
        with Client(server.grpc_url) as client:
            assert client.generate("a b", max_tokens=2, deadline_s=240).text
        found = status(options.state_dir)
        assert found.restarts == 1
        assert found.last_failure is not None
        assert "the process of model preprocessing" in found.last_failure
        assert "did nothing for 15 s" in found.last_failure
        os.kill(os.getpid(), signal.SIGTERM)

    with stopping(options.state_dir, "preprocessing", times=1) as stopped:
        serve(repository, options=options, progress=said.append, on_ready=ask_and_end)
    assert len(stopped) == 1
    assert any(line.endswith("starting again") for line in said)


def test_a_model_that_hangs_again_is_a_clear_error_and_its_stack_is_in_the_log(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stalled, "QUIET_S", SHORT_S)
    options = ServeOptions(state_dir=tmp_path / "server", ports=free_ports())
    source = repository / "preprocessing" / "1" / "model.py"
    hangs = source.read_text().replace('self._configure(args["model_config"])', "time.sleep(3600)")
    source.write_text(hangs.replace("from typing import Any", "import time\nfrom typing import Any"))
    with pytest.raises(Stalled, match=r"the process of model preprocessing \(pid \d+\) did nothing for 15 s"):
        serve(repository, options=options, progress=lambda _message: None)
    log = (options.state_dir / "triton.log").read_text()
    assert log.count("in initialize") >= 2, "one or more in each of two starts"
    assert "Fatal Python error" not in log
    assert read_state(options.state_dir) is None, "nothing is left to be stopped"
