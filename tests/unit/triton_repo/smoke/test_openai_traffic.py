"""A client that goes away, by a scripted count of running requests: freed, not freed, not told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest

from tests.support.records import manifest_of
from triton_repo.smoke import cancelling
from triton_repo.smoke.check import Failed, Skipped
from triton_repo.smoke.openai import traffic
from triton_repo.smoke.openai.running import count_running
from triton_repo.smoke.openai.target import OpenAiTarget, Reply


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Server:
    """Streams an event every `itl_s`; counts a request until `freed_after_s` after its client went away."""

    def __init__(self, clock: Clock, *, itl_s: float, freed_after_s: float, tells: bool = True) -> None:
        self._clock, self._itl_s, self._freed_after_s, self._tells = clock, itl_s, freed_after_s, tells
        self._streams = False
        self._closed_at: float | None = None

    def read(self) -> int | None:
        if not self._tells:
            return None
        gone = self._closed_at is not None and self._clock.now >= self._closed_at + self._freed_after_s
        return int(self._streams and not gone)

    def __iter__(self) -> Iterator[str]:
        self._streams = True
        for _ in range(1000):
            self._clock.sleep(self._itl_s)
            yield "{}"

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_error: object) -> None:
        self._closed_at = self._clock.now


class Target(OpenAiTarget):
    def require(self, api: str) -> None: ...

    def open(self, api: str, prompt: str, *, max_tokens: int, **fields: Any) -> Any:
        assert fields == {"ignore_eos": True}
        return self.running

    def ask(self, api: str, prompt: str, *, max_tokens: int, **fields: Any) -> Reply:
        return Reply("x", "length", None, ("x",), {"choices": [{"index": 0}]})


def check(monkeypatch: pytest.MonkeyPatch, **server: Any) -> None:
    clock = Clock()
    monkeypatch.setattr(cancelling, "time", clock)
    manifest = manifest_of()
    running = Server(clock, **server)
    traffic.check_cancellation(Target(cast(Any, None), "m", manifest, running=running), "chat")


def test_a_slot_that_is_freed_at_once_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    check(monkeypatch, itl_s=0.1, freed_after_s=1.0)


def test_a_slot_that_stays_taken_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Failed, match="still generating 5 s after its client went away"):
        check(monkeypatch, itl_s=0.1, freed_after_s=20.0)


def test_on_a_busy_machine_a_slot_may_be_freed_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    check(monkeypatch, itl_s=0.5, freed_after_s=15.0)


def test_an_answer_that_would_have_ended_by_itself_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Skipped, match="too short to tell"):
        check(monkeypatch, itl_s=0.001, freed_after_s=20.0)


def test_of_a_fast_model_a_slot_that_is_freed_at_once_passes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    check(monkeypatch, itl_s=0.003, freed_after_s=0.1)


def test_a_server_that_does_not_count_is_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Skipped, match="does not tell how many requests run"):
        check(monkeypatch, itl_s=0.1, freed_after_s=20.0, tells=False)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("# TYPE trtllm_num_requests_running gauge\ntrtllm_num_requests_running 3.0\n", 3),
        ('dynamo_frontend_inflight_requests{model="m"} 2\n', 2),
        ('vllm:num_requests_running{engine="0"} 1\nvllm:num_requests_running{engine="1"} 4\n', 5),
        ('nv_trt_llm_request_metrics{request_type="active"} 2\n', 2),
        ('[{"iter": 1, "numActiveRequests": 4}, {"iter": 2, "numActiveRequests": 1}]', 1),
        ("[]", None),
        ('[{"iter": 1}]', None),
        ("process_cpu_seconds_total 1\n", None),
        ("<html>no metrics</html>", None),
    ],
)
def test_running_requests_are_read_where_each_server_has_them(text: str, count: int | None) -> None:
    assert count_running(text, source="x") == count
