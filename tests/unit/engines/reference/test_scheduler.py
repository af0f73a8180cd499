"""In-flight batching: a fake executor whose next token depends on the whole history in its slot.

Its slots behave as a KV cache: whatever is fed is remembered at its position, and moved by Move. A wrong
slot, position or length therefore changes the tokens.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import engines.reference.scheduler as module
from engines.reference import EngineError, Event, RankFailure, Request, RequestError, Sampling, Scheduler
from engines.reference.batches import Batch, Decode, Logits, Move, Prefill

VOCAB = 101
END = 100


def next_token(history: list[int]) -> int:
    """Any function of the whole history will do; it never gives END below 40 tokens."""
    return (sum((index + 3) * token for index, token in enumerate(history)) + len(history)) % 97


def expected(prompt: list[int], count: int) -> list[int]:
    history = list(prompt)
    for _ in range(count):
        history.append(next_token(history))
    return history[len(prompt) :]


class FakeExecutor:
    def __init__(self, num_slots: int) -> None:
        self.slots: list[list[int]] = [[] for _ in range(num_slots)]
        self.batch_sizes: list[int] = []
        self.failures = 0
        self.error: Exception | None = None
        self.failing_moves = 0
        self.spoiled: dict[int, float] = {}
        self.closed = False
        self.gate = threading.Event()
        self.gate.set()

    def forward(self, batch: Batch) -> torch.Tensor | None:
        self.gate.wait(10)
        if self.failures:
            self.failures -= 1
            raise RankFailure("rank 1 ended (signal 9)")
        if self.error is not None:
            raise self.error
        if isinstance(batch, Prefill):
            self.slots[batch.slot] = [*self.slots[batch.slot][: batch.start], *batch.tokens]
            assert len(self.slots[batch.slot]) == batch.start + len(batch.tokens)
            return None if batch.logits is Logits.NONE else self._logits([batch.slot])
        assert isinstance(batch, Decode)
        self.batch_sizes.append(len(batch.tokens))
        for slot, (token, position) in enumerate(zip(batch.tokens, batch.positions, strict=True)):
            self.slots[slot] = [*self.slots[slot][:position], token]
            assert len(self.slots[slot]) == position + 1
        return self._logits(range(len(batch.tokens)))

    def _logits(self, slots: object) -> torch.Tensor:
        rows = [torch.nn.functional.one_hot(torch.tensor(next_token(self.slots[s])), VOCAB) for s in slots]  # type: ignore[attr-defined]
        logits = torch.stack(rows).float()
        for row, slot in enumerate(slots):  # type: ignore[call-overload]
            # What a first token marks: the request of that prompt gets logits that are no numbers.
            if (value := self.spoiled.get(self.slots[slot][0])) is not None:
                logits[row] = value
        return logits

    def move(self, move: Move) -> None:
        if self.failing_moves:
            self.failing_moves -= 1
            raise RankFailure("rank 1 ended (signal 9)")
        self.slots[move.target] = self.slots[move.source][: move.length]

    def close(self) -> None:
        self.closed = True


@dataclass
class Listener:
    events: list[Event] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def __call__(self, event: Event) -> None:
        assert not self.done.is_set(), "an event came after the last one"
        self.events.append(event)
        if event.finished:
            self.done.set()

    def wait(self) -> Event:
        assert self.done.wait(10), "the request never ended"
        return self.events[-1]

    @property
    def tokens(self) -> list[int]:
        return [token for event in self.events for token in event.token_ids]


@dataclass
class House:
    scheduler: Scheduler
    executors: list[FakeExecutor]

    def run(self, prompt: list[int], count: int, **options: object) -> tuple[Request, Listener]:
        listener = Listener()
        sampling = Sampling(max_tokens=count, **options)  # type: ignore[arg-type]
        return self.scheduler.submit(prompt, sampling, listener), listener


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    executors: list[FakeExecutor] = []

    def open_fake(_config: object, *, num_slots: int, **_: object) -> FakeExecutor:
        executors.append(FakeExecutor(num_slots))
        return executors[-1]

    limits = SimpleNamespace(max_batch_size=3, max_input_len=64, max_seq_len=96)
    config = SimpleNamespace(limits=limits, vocab_size=VOCAB, end_ids=(END,), pad_id=None)
    monkeypatch.setattr(module, "load_config", lambda _folder: config)
    monkeypatch.setattr(module, "open_executor", open_fake)
    monkeypatch.setattr(module, "PREFILL_CHUNK", 8)
    scheduler = Scheduler(Path("unused"))
    yield House(scheduler, executors)
    scheduler.close()


def test_one_request_gets_its_tokens_one_event_each(house: House) -> None:
    _, listener = house.run([5, 6, 7], 10)
    assert listener.wait().finish_reason == "length"
    assert listener.tokens == expected([5, 6, 7], 10)
    assert [len(event.token_ids) for event in listener.events] == [1] * 10


def test_requests_that_join_and_leave_in_any_order_get_what_they_get_alone(house: House) -> None:
    prompts = [[(7 * i + j) % 90 for j in range(1 + (5 * i) % 30)] for i in range(24)]
    counts = [1 + (11 * i) % 30 for i in range(24)]
    listeners = [house.run(prompt, count)[1] for prompt, count in zip(prompts, counts, strict=True)]
    for prompt, count, listener in zip(prompts, counts, listeners, strict=True):
        listener.wait()
        assert listener.tokens == expected(prompt, count)
    assert max(house.executors[0].batch_sizes) == 3


def test_cancellation_frees_the_slot_and_leaves_the_others_alone(house: House) -> None:
    house.executors[0].gate.clear()
    running = [house.run([i + 1, 2], 60) for i in range(3)]
    waiting = house.run([9, 9], 5)
    house.scheduler.cancel(running[1][0])
    house.executors[0].gate.set()
    assert running[1][1].wait().finish_reason == "cancelled"
    for index in (0, 2):
        running[index][1].wait()
        assert running[index][1].tokens == expected([index + 1, 2], 60)
    waiting[1].wait()
    assert waiting[1].tokens == expected([9, 9], 5)
    assert (house.scheduler.counts().active, house.scheduler.counts().waiting) == (0, 0)


def test_a_waiting_request_can_be_cancelled(house: House) -> None:
    house.executors[0].gate.clear()
    running = [house.run([i + 1, 2], 20)[1] for i in range(3)]
    request, listener = house.run([9, 9], 5)
    house.scheduler.cancel(request)
    house.executors[0].gate.set()
    assert listener.wait().finish_reason == "cancelled"
    assert listener.tokens == []
    for index, other in enumerate(running):
        other.wait()
        assert other.tokens == expected([index + 1, 2], 20)


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


def test_the_end_id_ends_a_request_and_is_not_part_of_the_output(house: House) -> None:
    full = expected([4, 4], 12)
    stop = full[5]
    _, listener = house.run([4, 4], 12, end_id=stop)
    assert listener.wait().finish_reason == "end_id"
    assert listener.tokens == full[: full.index(stop)]


def test_end_id_minus_one_runs_past_the_models_own_end(house: House) -> None:
    house.scheduler.end_ids = (expected([4, 4], 12)[5],)
    _, ending = house.run([4, 4], 12)
    assert ending.wait().finish_reason == "end_id"
    _, running = house.run([4, 4], 12, end_id=-1, min_tokens=12)
    assert running.wait().finish_reason == "length"
    assert running.tokens == expected([4, 4], 12)


def test_a_stop_word_ends_a_request_and_stays_in_the_output(house: House) -> None:
    full = expected([4, 4], 12)
    _, listener = house.run([4, 4], 12, stop_words=((full[3], full[4]),))
    assert listener.wait().finish_reason == "stop_words"
    assert listener.tokens == full[:5]


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
    closer.join(10)
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
    assert died.wait(10)
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
    executor.gate.set()
    wait_until(lambda: house.scheduler.counts().active == 3 and all(one.tokens for _, one in runs))
    executor.failing_moves = 1
    house.scheduler.cancel(runs[0][0])
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


def wait_until(is_so: Callable[[], bool]) -> None:
    for _ in range(10_000):
        if is_so():
            return
        threading.Event().wait(0.001)
    raise AssertionError("it never became so")
