"""When a server that runs is judged stuck: a scripted canary and an injected clock."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest

from triton_repo.serve.heartbeat import EVERY_S, NUM_FAILURES, TIMEOUT_S, Heartbeat


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Canary:
    """Ends with `status` after `takes_s`."""

    def __init__(self, clock: Clock, status: int, takes_s: float) -> None:
        self._clock, self._status, self._ends = clock, status, clock.seconds + takes_s
        self.stderr = io.StringIO("canary: no progress within 15 s\n" if status else "")
        self.killed = False

    def poll(self) -> int | None:
        return self._status if self._clock.seconds >= self._ends else None

    def kill(self) -> None:
        self.killed = True

    def wait(self, timeout: float | None = None) -> int:
        return self._status


def run(script: Iterator[tuple[int, float]], *, until_s: float) -> tuple[float, str] | None:
    clock = Clock()
    heartbeat = Heartbeat(lambda: Canary(clock, *next(script)), now=clock)
    while clock.seconds < until_s:
        if problem := heartbeat.problem():
            return clock.seconds, problem
        clock.seconds += 0.2
    return None


def test_a_model_that_makes_progress_however_slowly_it_answers_is_left_alone() -> None:
    assert run(iter([(0, 14.9)] * 100), until_s=600) is None


def test_a_stuck_model_is_found_within_a_minute() -> None:
    found = run(iter([(0, 0.0), *[(1, TIMEOUT_S)] * 10]), until_s=600)
    assert found is not None
    assert found[0] <= 60
    assert found[1] == (
        f"the model makes no progress, asked {NUM_FAILURES} times: canary: no progress within 15 s"
    )


def test_a_canary_that_never_got_through_proves_nothing() -> None:
    assert run(iter([(2, 0.1)] * 10_000), until_s=600) is None


def test_a_server_that_does_not_answer_any_more_is_stuck() -> None:
    found = run(iter([(0, 1.0), *[(2, 15.0)] * 10]), until_s=600)
    assert found is not None
    assert found[0] <= 1 + EVERY_S + 60


def test_a_model_that_is_stuck_from_the_first_look_is_found_too() -> None:
    found = run(iter([(1, TIMEOUT_S)] * 10), until_s=600)
    assert found is not None
    assert found[0] <= 60


def test_after_a_restart_the_count_begins_anew_and_what_was_learned_stays() -> None:
    clock = Clock()
    asked: list[int] = []

    def start() -> Canary:
        asked.append(0 if not asked else 2)
        return Canary(clock, asked[-1], 1.0)

    heartbeat = Heartbeat(start, now=clock)
    while len(asked) < NUM_FAILURES:  # one success, and one failure less than proves anything
        assert heartbeat.problem() is None
        clock.seconds += 0.2
    heartbeat.close()
    before = len(asked)
    while heartbeat.problem() is None:
        clock.seconds += 0.2
    assert len(asked) - before == NUM_FAILURES


@pytest.mark.parametrize("before", [1, NUM_FAILURES - 1])
def test_one_success_between_failures_begins_the_count_anew(before: int) -> None:
    script = [(0, 0.0), *[(1, 15.0)] * before, (0, 1.0)] * 8
    assert run(iter(script), until_s=(before * 16 + 1 + EVERY_S) * 7) is None


def test_what_is_under_way_is_ended_with_it() -> None:
    clock = Clock()
    canary = Canary(clock, 0, 1000)
    heartbeat = Heartbeat(lambda: canary, now=clock)
    clock.seconds = EVERY_S
    heartbeat.problem()
    heartbeat.close()
    assert canary.killed


def test_a_machine_that_can_start_no_process_is_no_proof_either() -> None:
    clock = Clock()

    def refuse() -> Canary:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    heartbeat = Heartbeat(refuse, now=clock)
    while clock.seconds < 600:
        assert heartbeat.problem() is None
        clock.seconds += 0.2
