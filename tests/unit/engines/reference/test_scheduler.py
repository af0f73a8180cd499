"""In-flight batching over a fake executor: who gets which tokens, and when a request ends."""

from __future__ import annotations

from tests.support.fake_executor import House, expected
from tests.support.patience import wait_until


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
    # A slot is freed after its last event.
    wait_until(lambda: (house.scheduler.counts().active, house.scheduler.counts().waiting) == (0, 0))


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


def test_short_prompts_that_wait_are_begun_together_and_long_ones_a_chunk_between_two_tokens(
    house: House,
) -> None:
    """The chunk is 8 tokens here: three short prompts fill all slots at once, one of 20 takes three turns."""
    executor = house.executors[0]
    executor.gate.clear()
    listeners = [house.run([i + 1], 3)[1] for i in range(3)]
    executor.gate.set()
    for listener in listeners:
        listener.wait()
    assert executor.order == ["Prefill"] * 3 + ["Decode"] * 2

    executor.order.clear()
    running, long = house.run([7], 9)[1], house.run(list(range(20)), 2)[1]
    running.wait()
    long.wait()
    chunks = "".join(name[0] for name in executor.order)
    assert "PDPDPD" in chunks
    assert long.tokens == expected(list(range(20)), 2)


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
