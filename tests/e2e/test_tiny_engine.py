"""The whole way on a tiny engine: the smoke test passes on both executors, and deaths are survived."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from threading import Event, Thread

import pytest

from tests.drills.parts import ranks_of
from tests.e2e.conftest import Engine, Serving, served
from tests.support.patience import PATIENCE_S, wait_until
from tpforge.errors import TpforgeError
from tpforge.repository_options import ReferenceOptions
from triton_repo.client.client import Client
from triton_repo.serve.local import status
from triton_repo.serve.processes import stubs_of
from triton_repo.serve.state import read_state
from triton_repo.smoke import SmokeReport, run_smoke
from triton_repo.smoke.triton import all_checks

pytestmark = pytest.mark.e2e


class LongRequest(Thread):
    """Reads a stream of thousands of tokens; keeps how it ended."""

    def __init__(self, url: str, model: str) -> None:
        super().__init__(daemon=True)
        self.url, self.model, self.flowing = url, model, Event()
        self.error: TpforgeError | None = None

    def run(self) -> None:
        try:
            with Client(self.url, deadline_s=2 * PATIENCE_S) as client:
                for _ in client.chunks("the capital of", max_tokens=3000, min_tokens=3000, model=self.model):
                    self.flowing.set()
        except TpforgeError as error:
            self.error = error


def smoke(serving: Serving) -> SmokeReport:
    return run_smoke(
        serving.server.grpc_url,
        manifest=serving.manifest,
        metrics_url=serving.server.metrics_url,
        on_result=lambda _result: None,
    )


def not_passed(report: SmokeReport) -> list[str]:
    """What did not pass and should; a tiny model may answer so fast that cancelling it cannot be seen.

    The checks of a secured server have to be skipped here, where there is neither TLS nor a key.
    """
    return [
        f"{check.name}: {check.status}, {check.reason}"
        for check in report.results
        if check.status != ("skip" if check.name.startswith("security.") else "pass")
        and "too short to tell" not in check.reason
    ]


def expect_failure_then_answer(requests: list[LongRequest], url: str) -> None:
    """Every request in flight fails, and a later one is answered."""
    for request in requests:
        request.join(PATIENCE_S)
        assert not request.is_alive(), f"a stream of {request.model} hangs after the kill"
        assert request.error is not None, f"a stream of {request.model} ended without an error"

    def answers() -> bool:
        try:
            return client.generate("the capital of", max_tokens=2).chunks[-1].final
        except TpforgeError:
            return False

    with Client(url, deadline_s=30) as client:
        wait_until(answers, "an answer after the kill", every_s=0.2)


def start_requests(serving: Serving, *models: str) -> list[LongRequest]:
    requests = [LongRequest(serving.server.grpc_url, model) for model in models]
    for request in requests:
        request.start()
    for request in requests:
        assert request.flowing.wait(PATIENCE_S), f"{request.model} does not stream: {request.error}"
    return requests


def stub_pid(serving: Serving, model: str) -> int:
    state = read_state(serving.server.state_dir)
    assert state is not None and state.server is not None
    return next(stub.pid for stub, name in stubs_of(state.server.pid).items() if name == model)


def test_smoke_test_passes_on_the_lockstep_executor(lockstep: Serving) -> None:
    report = smoke(lockstep)
    assert [result.name for result in report.results] == [check.name for check in all_checks()]
    assert not_passed(report) == []


def test_smoke_test_passes_with_a_process_a_rank(processes_server: Serving) -> None:
    assert not_passed(smoke(processes_server)) == []


@pytest.mark.parametrize("model", ["ensemble", "tensorrt_llm_bls"])
def test_killed_rank_process_fails_requests_and_the_next_is_answered(
    processes_server: Serving, model: str
) -> None:
    requests = start_requests(processes_server, model)
    restarts = status(processes_server.server.state_dir).restarts
    ranks = ranks_of(stub_pid(processes_server, "tensorrt_llm"))
    assert len(ranks) == 2
    ranks[1].kill()
    expect_failure_then_answer(requests, processes_server.server.grpc_url)
    assert status(processes_server.server.state_dir).restarts == restarts, "the ranks restart without Triton"


@pytest.mark.parametrize("model", ["tensorrt_llm", "preprocessing"])
def test_killed_model_process_fails_requests_and_the_next_is_answered(lockstep: Serving, model: str) -> None:
    requests = start_requests(lockstep, "ensemble", "tensorrt_llm_bls")
    restarts = status(lockstep.server.state_dir).restarts
    os.kill(stub_pid(lockstep, model), signal.SIGKILL)
    expect_failure_then_answer(requests, lockstep.server.grpc_url)
    assert status(lockstep.server.state_dir).restarts == restarts + 1


def test_deployment_that_is_not_decoupled_answers_whole_and_refuses_to_stream(
    tiny_engine: Engine, tmp_path: Path
) -> None:
    options = ReferenceOptions(executor="lockstep", num_threads=1, decoupled=False)
    golden = tiny_engine.manifest.golden[0]
    with served(tiny_engine, tmp_path, options) as serving, Client(serving.server.grpc_url) as client:
        for model in ("ensemble", "tensorrt_llm_bls"):
            answer = client.generate(golden.prompt, max_tokens=golden.num_decisive, model=model)
            assert golden.text.startswith(answer.text.rstrip("\ufffd"))
            assert answer.num_final == 1
            with pytest.raises(TpforgeError, match="decoupled"):
                client.generate(golden.prompt, max_tokens=2, model=model, stream=True)


def test_an_engine_and_a_server_in_folders_of_any_name(
    tiny_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "späce and 'quotes\" $x;&"
    shutil.copytree(tiny_engine.folder, folder / "the engine")
    monkeypatch.chdir(folder)
    here = Engine(Path("the engine").absolute(), tiny_engine.manifest)
    options = ReferenceOptions(executor="processes", num_threads=1)
    with served(here, Path("the server").absolute(), options) as serving:
        assert not_passed(smoke(serving)) == []
