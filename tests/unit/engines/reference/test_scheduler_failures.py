"""In-flight batching when something fails: whose error it is, and that nobody else notices."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

import engines.reference.scheduler as module
from engines.reference import EngineError, Event, RequestError, Sampling, Scheduler
from tests.support.fake_executor import VOCAB, House, expected
from tests.support.patience import PATIENCE_S, wait_until


def test_a_failed_rank_fails_requests_in_flight_and_the_next_one_is_answered(house: House) -> None:
    first = house.executors[0]
    first.failures = 1
    _, failed = house.run([1, 2, 3], 10)
    last = failed.wait()
    assert last.finish_reason == "error"
    assert "rank 1 ended (signal 9)" in (last.error or "")
    assert first.closed
    _, listener = house.run([1, 2, 3], 10)
    listener.wait()
    assert listener.tokens == expected([1, 2, 3], 10)
    assert len(house.executors) == 2


@pytest.mark.parametrize(
    ("field_name", "prompt", "count"),
    [
        ("input_ids", [], 5),
        ("input_ids", [1] * 65, 5),
        ("input_ids", [1, VOCAB], 5),
        ("input_ids", [1, -1], 5),
        ("request_output_len", [1] * 60, 37),
        ("request_output_len", [1], 0),
    ],
)
def test_a_refused_request_names_its_field_and_disturbs_nobody(
    house: House, field_name: str, prompt: list[int], count: int
) -> None:
    with pytest.raises(RequestError) as caught:
        house.run(prompt, count)
    assert caught.value.field == field_name
    _, listener = house.run([3], 4)
    listener.wait()
    assert listener.tokens == expected([3], 4)


def test_closing_fails_what_is_in_flight(house: House) -> None:
    house.executors[0].gate.clear()
    _, listener = house.run([1], 60)
    closer = threading.Thread(target=house.scheduler.close)
    closer.start()
    house.executors[0].gate.set()
    closer.join(PATIENCE_S)
    assert listener.wait().error == "the server is shutting down"


EXTREMES = [
    {"temperature": 1e-38, "top_k": 5},
    {"temperature": 2.0**-149, "top_p": 0.9, "repetition_penalty": 2.0**-149},
    {"temperature": 3.4e38, "top_k": 5, "frequency_penalty": 3.4e38},
    {"repetition_penalty": 1e-38, "top_k": 5, "return_log_probs": True},
    {"repetition_penalty": 3.4e38, "top_p": 1.0, "presence_penalty": -3.4e38},
    {"presence_penalty": 3.4e38, "frequency_penalty": -3.4e38, "top_k": 2**31 - 1},
    {"top_p": 1e-45},
    {"seed": 2**64 - 1, "top_k": 3},
    {"min_tokens": 2**31 - 1},
]


@pytest.mark.parametrize("options", EXTREMES, ids=str)
def test_extreme_options_are_answered_and_disturb_nobody(house: House, options: dict[str, float]) -> None:
    _, other = house.run([5, 6, 7], 20)
    _, extreme = house.run([1, 2], 8, **options)
    assert (extreme.wait().finish_reason, len(extreme.tokens)) == ("length", 8)
    other.wait()
    assert other.tokens == expected([5, 6, 7], 20)
    assert len(house.executors) == 1


def test_a_request_whose_words_forbid_every_token_fails_alone(house: House) -> None:
    _, other = house.run([5, 6, 7], 20)
    _, forbidden = house.run([1, 2], 8, bad_words=tuple((token,) for token in range(VOCAB)))
    last = forbidden.wait()
    assert (last.finish_reason, last.error, forbidden.tokens) == (
        "error",
        "bad_words and min_tokens leave no token to choose from",
        [],
    )
    other.wait()
    assert other.tokens == expected([5, 6, 7], 20)
    assert len(house.executors) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("options", [{}, {"top_k": 5}, {"return_log_probs": True}], ids=str)
def test_logits_that_are_no_numbers_are_an_error_of_their_request(
    house: House, value: float, options: dict[str, float]
) -> None:
    house.executors[0].spoiled = {9: value}
    _, other = house.run([5, 6, 7], 20)
    _, spoiled = house.run([9, 2], 8, **options)
    last = spoiled.wait()
    assert (last.finish_reason, spoiled.tokens) == ("error", [])
    assert last.error is not None
    assert "the model computed no usable logits" in last.error
    other.wait()
    assert other.tokens == expected([5, 6, 7], 20)
    assert len(house.executors) == 1


def test_what_sampling_itself_refuses_is_an_error_of_its_request(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise RuntimeError("probability tensor contains either `inf`, `nan` or element < 0")

    monkeypatch.setattr(torch, "multinomial", refuse)
    _, other = house.run([5, 6, 7], 20)
    _, refused = house.run([1, 2], 8, top_k=5)
    assert "probability tensor" in (refused.wait().error or "")
    other.wait()
    assert other.tokens == expected([5, 6, 7], 20)
    assert len(house.executors) == 1


UNEXPECTED = [OSError(24, "Too many open files"), KeyError("slot"), MemoryError()]


@pytest.mark.parametrize("error", UNEXPECTED, ids=repr)
def test_an_error_that_nobody_expected_fails_all_and_lets_no_more_in(
    monkeypatch: pytest.MonkeyPatch, house: House, error: Exception
) -> None:
    deaths: list[Exception] = []
    died = threading.Event()

    def on_death(found: Exception) -> None:
        deaths.append(found)
        died.set()

    house.scheduler._on_death = on_death
    executor = house.executors[0]
    executor.gate.clear()
    listeners = [house.run([5, 6, 7], 20)[1] for _ in range(6)]  # twice as many as there are slots
    executor.error = error
    executor.gate.set()
    for listener in listeners:
        assert type(error).__name__ in (listener.wait().error or "")
    assert died.wait(PATIENCE_S)
    assert deaths == [error]
    assert executor.closed
    with pytest.raises(EngineError, match="must be restarted"):
        house.run([1], 1)


def test_a_listener_that_fails_keeps_no_other_request_waiting(house: House) -> None:
    house.scheduler._on_death = lambda error: None

    def broken(event: Event) -> None:
        raise ValueError("a listener of ours is wrong")

    executor = house.executors[0]
    executor.gate.clear()
    house.scheduler.submit([1, 2], Sampling(max_tokens=5), broken)
    _, other = house.run([5, 6, 7], 20)
    executor.gate.set()
    assert "a listener of ours is wrong" in (other.wait().error or "")


def test_an_executor_that_cannot_be_opened_fails_the_start_whatever_the_error(
    monkeypatch: pytest.MonkeyPatch, house: House
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(module, "open_executor", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        Scheduler(Path("unused"))


def test_a_rank_that_dies_while_slots_move_leaves_no_cancelled_request_waiting(house: House) -> None:
    executor = house.executors[0]
    executor.gate.clear()
    runs = [house.run([5, 6, number], 80) for number in range(3)]
    executor.steps_left = 12
    executor.gate.set()
    wait_until(lambda: house.scheduler.counts().active == 3 and all(one.tokens for _, one in runs))
    executor.failing_moves = 1
    house.scheduler.cancel(runs[0][0])
    executor.gate.set()
    for _, listener in runs:
        listener.wait()
    assert runs[0][1].events[-1].finish_reason == "cancelled"


def test_a_rank_that_dies_after_a_last_token_says_nothing_more_to_that_request(house: House) -> None:
    executor = house.executors[0]
    executor.gate.clear()
    _, short = house.run([5, 6, 7], 4)
    _, long = house.run([5, 6, 8], 60)
    executor.failing_moves = 1
    executor.gate.set()
    assert short.wait().finish_reason == "length"
    assert "being restarted" in (long.wait().error or "")
    assert short.tokens == expected([5, 6, 7], 4)
