"""What a client without the key is refused by the real server, and that others are served all the while."""

from __future__ import annotations

import json
import os
import signal
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import shared_memory

import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from tests.e2e.conftest import Serving
from tests.support.patience import PATIENCE_S, wait_until
from tpforge.system.opener import open_url
from triton_repo.client.client import Client
from triton_repo.serve import processes
from triton_repo.serve.state import read_state

pytestmark = pytest.mark.e2e

REGION = "/v2/systemsharedmemory/region/stolen/register"


def asked_over_grpc(serving: Serving, key: str) -> str:
    """Triton's answer to the registration of a region by gRPC."""
    with triton.InferenceServerClient(f"localhost:{serving.server.ports.grpc}") as client:
        try:
            client.register_system_shared_memory("stolen", key, 64)
        except InferenceServerException as error:
            return str(error)
    return "registered"


def asked_over_http(serving: Serving, key: str) -> int:
    """The status of the same by HTTP."""
    body = json.dumps({"key": key, "offset": 0, "byte_size": 64}).encode()
    url = f"http://localhost:{serving.server.ports.http}{REGION}"
    try:
        with open_url(url, timeout_s=10, method="POST", body=body) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_no_client_registers_shared_memory_its_own_or_the_servers(lockstep: Serving) -> None:
    mine = shared_memory.SharedMemory(create=True, size=64)
    try:
        regions = [f"/{mine.name}", "/triton_python_backend_shm_region_1", "/../etc/passwd"]
        for key in regions:
            assert "UNAVAILABLE" in asked_over_grpc(lockstep, key)
            assert asked_over_http(lockstep, key) == 403
    finally:
        mine.close()
        mine.unlink()
    with Client(f"localhost:{lockstep.server.ports.grpc}") as client:
        assert client.is_ready()


def stubs_of(serving: Serving, model: str) -> list[int]:
    """The processes of a model of the server."""
    state = read_state(serving.server.state_dir)
    assert state is not None and state.server is not None
    return [stub.pid for stub, name in processes.stubs_of(state.server.pid).items() if name == model]


def test_a_prompt_that_takes_for_ever_does_not_keep_the_prompts_of_others(lockstep: Serving) -> None:
    """One process stands still, as if in a huge prompt: of four requests three are answered meanwhile."""

    def ask(_index: int) -> str:
        with Client(lockstep.server.grpc_url, deadline_s=PATIENCE_S) as client:
            return client.generate("Hello", max_tokens=4).text

    busy, *others = stubs_of(lockstep, "preprocessing")
    assert others
    os.kill(busy, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(ask, index) for index in range(4)]
            wait_until(lambda: sum(future.done() for future in asked) >= 3)
            os.kill(busy, signal.SIGCONT)
            assert len({future.result() for future in asked}) == 1
    finally:
        os.kill(busy, signal.SIGCONT)
