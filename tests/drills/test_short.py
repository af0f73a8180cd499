"""The short form of the drills of servers, which CI runs: the same code, fewer tries."""

from __future__ import annotations

import pytest

from tests.drills import clients, hostile_clients, memory, requests
from tests.e2e.conftest import Serving, lockstep, tiny_engine

__all__ = ["lockstep", "tiny_engine"]  # fixtures of the tests that start servers


@pytest.mark.e2e
def test_requests_of_every_kind_hang_nothing_and_harm_no_other(lockstep: Serving) -> None:
    figure = requests.run(lockstep.server.grpc_url, lockstep.server.http_url, num_requests=120)
    assert figure.is_good, figure.line()
    assert figure.num_tries == 120


@pytest.mark.e2e
def test_clients_that_misbehave_harm_no_other(lockstep: Serving) -> None:
    server = lockstep.server
    figure = clients.run(server.grpc_url, server.http_url, num_clients=12, num_connections=50)
    assert figure.is_good, figure.line()


@pytest.mark.e2e
def test_hostile_clients_harm_no_other_and_are_let_in_nowhere(lockstep: Serving) -> None:
    figure = hostile_clients.run(lockstep.server, num_streams=200)
    must = {kind: number for kind, number in figure.bad.items() if not kind.startswith("over")}
    assert set(must.values()) == {0}, figure.line()
    assert figure.num_tries == 7


@pytest.mark.e2e
def test_a_model_whose_memory_ran_out_is_back_and_the_cause_is_told(lockstep: Serving) -> None:
    (figure,) = memory.run(lockstep.server, parts=("stub",))
    if figure.num_tries == 0:
        pytest.skip(f"no control group of memory can be made here: {figure.notes}")
    assert figure.is_good, (figure.line(), figure.notes)
