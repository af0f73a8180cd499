"""Blue/green on real Triton under load: no request is lost, and a candidate that fails is left again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest

from tests.e2e.conftest import Engine, Serving, quiet, served
from tests.e2e.echo import write_echo
from tests.support.ended import end_server
from tests.support.patience import PATIENCE_S, wait_until
from tests.support.ports import free_ports
from tpforge.errors import EnvironmentUnusable, RegressionFound, TpforgeError, VerificationFailed
from tpforge.repository_options import ReferenceOptions
from triton_repo.client.client import Client
from triton_repo.promote.promotion import Backend, PromoteOptions, RouterSwitch, promote
from triton_repo.promote.router import Route, Router
from triton_repo.serve.local import ServeOptions, serve, stop

pytestmark = pytest.mark.e2e
OPTIONS = PromoteOptions(num_requests=12, concurrency=2, max_tokens=8, max_p95_ms=200_000)


class Load(Thread):
    """Clients that ask one after the other, each over one connection, until told to end."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url, self.ended = url, Event()
        self.answers: list[str] = []
        self.errors: list[str] = []

    def run(self) -> None:
        with Client(self.url, deadline_s=PATIENCE_S) as client:
            while not self.ended.is_set():
                try:
                    answer = client.generate("The capital of France is", max_tokens=12, stream=True)
                    self.answers.append(answer.text)
                except TpforgeError as error:
                    self.errors.append(str(error))


@contextmanager
def loaded(url: str, *, num_clients: int = 3) -> Iterator[list[Load]]:
    loads = [Load(url) for _ in range(num_clients)]
    for load in loads:
        load.start()
    try:
        yield loads
    finally:
        for load in loads:
            load.ended.set()
        for load in loads:
            load.join(PATIENCE_S)


@pytest.fixture
def router(tmp_path: Path) -> Iterator[Router]:
    found = Router(tmp_path / "router")
    yield found
    found.stop()


def backend(name: str, serving: Serving) -> Backend:
    return Backend(name, serving.server.grpc_url, serving.manifest, serving.server.metrics_url)


def test_a_promotion_under_load_loses_no_request_and_both_servers_answer(
    router: Router, lockstep: Serving, processes_server: Serving
) -> None:
    blue, green = backend("blue", lockstep), backend("green", processes_server)
    switch = RouterSwitch(router, "127.0.0.1", free_ports().grpc)
    promote(switch, blue, None, options=OPTIONS, progress=quiet)
    assert router.status().active == Route(target=blue.url, engine="blue")
    with loaded(f"127.0.0.1:{switch.port}") as loads:
        wait_until(lambda: all(len(load.answers) > 2 for load in loads), "answers before the promotion")
        done = promote(switch, green, blue, options=OPTIONS, progress=quiet)
        asked = [len(load.answers) for load in loads]
        wait_until(
            lambda: all(len(load.answers) > num + 2 for load, num in zip(loads, asked, strict=True)),
            "answers after the promotion",
        )
    status = router.status()
    answers = [answer for load in loads for answer in load.answers]
    assert [error for load in loads for error in load.errors] == []
    assert len(answers) > 20 and len(set(answers)) == 1, "greedy answers of one engine are equal"
    assert status.active.engine == "green" and done.previous == "blue"
    assert status.begun[blue.url] > 0 and status.begun[green.url] > 0
    assert set(status.in_flight.values()) == {0}
    # The load's, and those of both watches.
    assert sum(status.begun.values()) == len(answers) + 2 * OPTIONS.num_requests
    print(f"{len(answers)} requests during the promotion, 0 lost")


def test_a_candidate_that_fails_the_smoke_test_is_never_active(
    router: Router, lockstep: Serving, tmp_path: Path
) -> None:
    blue = backend("blue", lockstep)
    router.turn(Route(target=blue.url, engine="blue"))
    where = ServeOptions(state_dir=tmp_path / "server", ports=free_ports(), detach=True)
    wrong = serve(write_echo(tmp_path / "repository"), options=where, progress=quiet)
    try:
        candidate = Backend("echo", wrong.grpc_url)
        switch = RouterSwitch(router, "127.0.0.1", free_ports().grpc)
        with pytest.raises(VerificationFailed, match="the smoke test failed"):
            promote(switch, candidate, blue, options=OPTIONS, progress=quiet)
    finally:
        end_server(where.state_dir)
    assert router.route == Route(target=blue.url, engine="blue")


def test_a_slow_candidate_is_refused_by_its_canary(
    router: Router, lockstep: Serving, processes_server: Serving
) -> None:
    blue, green = backend("blue", lockstep), backend("green", processes_server)
    router.turn(Route(target=blue.url, engine="blue"))
    strict = PromoteOptions(num_requests=4, concurrency=1, max_tokens=4, max_p95_ms=0.5)
    switch = RouterSwitch(router, "127.0.0.1", free_ports().grpc)
    with pytest.raises(
        RegressionFound, match=r"green: p95 \d+ ms over 4 requests, the limit is 0 ms; nothing was shifted"
    ):
        promote(switch, green, blue, options=strict, progress=quiet)
    assert router.route == Route(target=blue.url, engine="blue")


def test_a_candidate_that_dies_after_the_shift_is_left_again(
    router: Router, lockstep: Serving, tiny_engine: Engine, tmp_path: Path
) -> None:
    blue = backend("blue", lockstep)
    switch = RouterSwitch(router, "127.0.0.1", free_ports().grpc)
    switch.shift(blue)
    said: list[str] = []
    with served(tiny_engine, tmp_path, ReferenceOptions(executor="lockstep", num_threads=1)) as serving:
        green = backend("green", serving)

        def progress(message: str) -> None:
            said.append(message)
            if message.startswith("shifted"):
                stop(serving.server.state_dir)

        with pytest.raises(VerificationFailed, match=r"was lost.*blue is the active one again"):
            promote(switch, green, blue, options=OPTIONS, progress=progress)
    assert [line.split(":")[0] for line in said] == [
        "smoke test of green",
        "smoke test",
        "canary",
        "shifted 127.0.0.1",
        "went back to blue",
    ]
    status = router.status()
    assert status.active == Route(target=blue.url, engine="blue")
    assert status.begun[green.url] >= 1, "the watch did ask the candidate through the router"
    with Client(f"127.0.0.1:{switch.port}") as client:
        assert client.generate("Hello", max_tokens=2).text


def test_errors_deadlines_and_cancellation_pass_through_the_router(router: Router, lockstep: Serving) -> None:
    router.turn(Route(target=lockstep.server.grpc_url, engine="blue"))
    url = router.start(host="127.0.0.1", port=free_ports().grpc).url
    with Client(url) as client, Client(lockstep.server.grpc_url) as direct:
        assert client.server_id() == direct.server_id()
        with pytest.raises(TpforgeError) as routed:
            client.generate("x", max_tokens=-1)
        with pytest.raises(TpforgeError) as told:
            direct.generate("x", max_tokens=-1)
        assert str(routed.value) == str(told.value)
        for _ in client.chunks("x", max_tokens=200):
            break
        wait_until(
            lambda: set(router.status().in_flight.values()) == {0}, "no cancelled request stays in flight"
        )
    assert router.stop() and router.state is None
    with pytest.raises(EnvironmentUnusable, match="no router runs"):
        router.status()
