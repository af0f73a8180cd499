"""Which checks of the smoke test run at once, and that this changes none of them; no server is started."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from tests.support.servers.fake_server import FakeServer
from tests.unit.triton_repo.smoke.test_smoke import CHECKS, golden, manifest, run
from tpforge.manifest import GoldenAnswer, Limits
from triton_repo.client.client import ServerUnreachable
from triton_repo.smoke import SmokeOptions, run_smoke
from triton_repo.smoke.check import Check, Target
from triton_repo.smoke.runner import run_checks

BESIDE = {
    "ensemble.golden", "ensemble.streaming", "ensemble.determinism", "ensemble.stop_words",
    "ensemble.max_tokens", "ensemble.end_id",
    "tensorrt_llm_bls.golden", "tensorrt_llm_bls.streaming", "tensorrt_llm_bls.stop_words",
}  # fmt: skip


@pytest.mark.parametrize(
    ("answers", "beside"),
    [
        ((golden("easy", "w3 w4", num_decisive=20),), BESIDE),
        ((golden("easy", "w3 w4", num_decisive=4),), BESIDE),
        ((golden("easy", "w3 w4", num_decisive=3),), set()),
        ((golden("easy", "w3 w4", num_decisive=0),), set()),
        ((), set()),
    ],
    ids=["all", "4 tokens", "3 tokens", "none", "no golden answers"],
)
def test_only_checks_that_rounding_cannot_change_run_beside_others(
    answers: tuple[GoldenAnswer, ...], beside: set[str]
) -> None:
    target = Target(client=FakeServer(), manifest=manifest(answers))
    assert {name for name, check in CHECKS.items() if check.may_run_beside(target)} == beside
    assert target.canary
    refusals = {name for name in CHECKS if ".refuses." in name} if beside else set()
    assert {name for name, check in CHECKS.items() if check.may_run_beside(target)} == beside | refusals


def test_the_canary_is_known_from_before_the_first_wrong_request() -> None:
    """And those that follow are asked at once: each has a canary of its own."""
    server = FakeServer()
    known = manifest((golden("easy", "w3 w4", num_decisive=20),))
    checks = tuple(check for name, check in CHECKS.items() if ".refuses." in name)
    target = Target(client=server, manifest=known)
    refused: list[bool] = []
    first = replace(checks[0], run=lambda one: (refused.append(one.knows_canary), checks[0].run(one))[1])
    results = run_checks((first, *checks[1:]), target, on_result=lambda _result: None)
    assert {result.status for result in results} == {"pass"}
    assert refused == [False] and target.knows_canary


@pytest.mark.parametrize(("slots", "clients", "beside"), [(1, 8, 4), (6, 8, 6), (64, 8, 8), (64, 2, 4)])
def test_as_many_checks_run_at_once_as_the_server_has_slots(
    slots: int, clients: int, beside: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def watch(_checks: object, _target: object, *, num_beside: int, **_rest: object) -> tuple[()]:
        asked.append(num_beside)
        return ()

    monkeypatch.setattr("triton_repo.smoke.triton.run_checks", watch)
    monkeypatch.setattr("triton_repo.smoke.triton.Client", lambda *_words, **_options: FakeServer())
    known = manifest(()).model_copy(update={"limits": Limits(max_batch_size=slots)})
    run_smoke("x:1", manifest=known, on_result=lambda _r: None, options=SmokeOptions(num_clients=clients))
    assert asked == [beside]


@pytest.mark.parametrize("name", sorted(BESIDE))
@pytest.mark.parametrize("num_decisive", [4, 7, 20])
def test_what_is_asked_beside_others_never_goes_where_rounding_decides(name: str, num_decisive: int) -> None:
    """The server changes every token behind the decisive ones at each request."""
    server = FakeServer(f"random after {num_decisive}")
    known = manifest((golden("easy", "w3 w4", num_decisive=num_decisive),))
    assert run(name, server, known=known).status == "pass"


def test_checks_run_at_once_where_they_may_and_are_told_in_their_order() -> None:
    barrier, running, seen = threading.Barrier(3, timeout=60), [0], []

    def meet(_target: Target) -> None:
        running[0] += 1
        barrier.wait()

    def alone(_target: Target) -> None:
        seen.append(running[0])

    checks = (
        Check("a", "", alone), Check("b", "", meet, lambda _t: True), Check("c", "", alone),
        Check("d", "", meet, lambda _t: True), Check("e", "", meet, lambda _t: True), Check("f", "", alone),
    )  # fmt: skip
    told: list[str] = []
    target = Target(client=FakeServer())
    results = run_checks(checks, target, on_result=lambda result: told.append(result.name))
    assert [result.name for result in results] == ["a", "b", "c", "d", "e", "f"]
    assert {result.status for result in results} == {"pass"}
    assert told == ["a", "b", "d", "e", "c", "f"]
    assert seen == [0, 3, 3]


def test_when_the_server_goes_away_while_several_ask_each_is_named() -> None:
    def vanish(_target: Target) -> None:
        raise ServerUnreachable("localhost:1: the connection to the server is lost")

    checks = (
        Check("a", "", vanish, lambda _t: True), Check("b", "", vanish),
        Check("c", "", vanish, lambda _t: True),
    )  # fmt: skip
    results = run_checks(checks, Target(client=FakeServer()), on_result=lambda _result: None)
    assert [(result.status, result.reason) for result in results[1:2]] == [
        ("skip", "the server went away during a and c")
    ]
