"""What a client without the key is refused by the real server, and that others are served all the while."""

from __future__ import annotations

import json
import urllib.error
from multiprocessing import shared_memory

import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from tests.e2e.conftest import Serving
from tpforge.system.opener import open_url
from triton_repo.client.client import Client

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
