"""What the load generator says of servers whose truth is a script on a virtual clock, to one percent."""

from __future__ import annotations

import math
from functools import partial

import pytest

from tests.contract.measuring.conftest import TOKENS, Put, value
from tests.support.servers.virtual_openai import (
    Answer,
    Asked,
    Message,
    Queue,
    Script,
    prompts_of,
    steadily,
)
from tpforge.measure.runs.latencies import send_lag, time_to_first_token
from triton_repo.load.openai_target import OpenAiOptions
from triton_repo.load.schedule import Closed, Open, Trace, TraceRow


def steady(ttft_s: float, itl_s: float, **more: object) -> Script:
    return partial(steadily, ttft_s=ttft_s, itl_s=itl_s, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ttft_s", "itl_s", "users"),
    [
        (0.066, 0.03, 12),  # 1.956 s a request
        (0.5, 0.0036, 3),
        (0.54, 0.15, 30),  # 9.99 s: half of the window
        (1.09, 0.16, 30),  # 11.17 s
        (1.0, 0.29, 1),  # 19.27 s: nearly all of the window
    ],
)
@pytest.mark.parametrize("extent", [{"duration_s": 20.0}, {"num_requests": 96}])
def test_a_steady_server_is_shown_as_it_is(
    put: Put, ttft_s: float, itl_s: float, users: int, extent: dict[str, float]
) -> None:
    level = put(steady(ttft_s, itl_s), Closed(users), warmup_s=2.0, num_repeats=2, **extent).levels[0]
    taken = ttft_s + (TOKENS - 1) * itl_s
    assert value(level, "output_token_throughput") == pytest.approx(users * TOKENS / taken, rel=0.01)
    assert value(level, "total_token_throughput") == pytest.approx(users * (TOKENS + 3) / taken, rel=0.01)
    assert value(level, "request_throughput") == pytest.approx(users / taken, rel=0.01)
    assert value(level, "time_to_first_token") == pytest.approx(1e3 * ttft_s, rel=0.01)
    assert value(level, "inter_token_latency") == pytest.approx(1e3 * itl_s, rel=0.01)
    assert value(level, "request_latency", "p50") == pytest.approx(1e3 * taken, rel=0.01)
    assert value(level, "output_token_throughput_per_user") == pytest.approx(1 / itl_s, rel=0.01)
    assert value(level, "request_error_rate") == 0


def test_a_slower_server_is_never_shown_as_the_faster_one(put: Put) -> None:
    """4.9 % slower, at any place of the window's edges in its requests."""
    for ttft_s in (0.1, 0.7, 1.3, 2.9, 4.1):
        fast, slow = (
            put(steady(ttft_s * slower, 0.1 * slower), Closed(8), warmup_s=2.0, duration_s=20.0).levels[0]
            for slower in (1.0, 1.049)
        )
        ratio = value(slow, "output_token_throughput") / value(fast, "output_token_throughput")
        assert ratio == pytest.approx(1 / 1.049, rel=0.01)


def test_a_long_request_is_pointed_out(put: Put) -> None:
    said = put(steady(1.0, 0.1), Closed(2), duration_s=20.0).notes
    assert any(
        "one request takes 7.3 s, 36 % of the 20 s" in note and "--duration 73" in note for note in said
    )
    assert put(steady(0.1, 0.01), Closed(2), duration_s=20.0).notes == ()


def test_a_server_that_dies_is_charged_the_whole_window(put: Put) -> None:
    """8 users, 1 s a request, dead 7.5 s into a window of 20 s: 7 answers each of 20."""
    found = put(steady(0.37, 0.01), Closed(8), warmup_s=2.0, duration_s=20.0, dies_at=9.5)
    level, tokens = found.levels[0], 8 * TOKENS
    assert value(level, "output_token_throughput") == pytest.approx(7 * tokens / 20, rel=0.01)
    assert value(level, "benchmark_duration") == 20
    assert value(level, "request_error_rate") > 50
    assert level.errors["broken"] == 8
    assert value(level, "time_to_first_token", "p50") == pytest.approx(370, rel=0.01)
    assert value(level, "adj_time_to_first_token", "p95") == math.inf
    assert any("nobody could reach the server" in note and "whole window" in note for note in found.notes)
    assert not any("the last pass" in note for note in found.notes), "it was the server that ended it"
    assert not any(note.count("no answer at all") == 2 for note in found.notes), "nothing is no change"


def test_failures_are_infinite_where_the_share_of_them_says_so(put: Put) -> None:
    """Every tenth request is refused: the median is a number, the 95th percentile is not."""

    def script(asked: Asked) -> Answer:
        whole = steadily(asked, ttft_s=0.1, itl_s=0.01)
        return Answer(fate="refused") if asked.number % 10 == 9 else whole

    level = put(script, Closed(1), num_requests=200).levels[0]
    assert (value(level, "request_error_rate"), level.errors) == (10, {"refused": 20})
    assert value(level, "adj_time_to_first_token", "p50") == pytest.approx(100)
    assert value(level, "adj_time_to_first_token", "p95") == math.inf
    assert value(level, "time_to_first_token", "p95") == pytest.approx(100)
    interval = level.metrics["request_error_rate"].interval
    assert interval is not None and 6 < interval.low < 10 < interval.high < 16
    # Nine answers of 0.73 s, and a refusal that takes no time.
    assert value(level, "output_token_throughput") == pytest.approx(TOKENS / 0.73, rel=0.01)


def test_a_server_that_hangs_costs_the_deadline(put: Put) -> None:
    """Every third request is silent after 5 tokens: two answers of 1 s, then 10 s for nothing."""

    def script(asked: Asked) -> Answer:
        whole = steadily(asked, ttft_s=0.37, itl_s=0.01)
        return whole if asked.number % 3 < 2 else Answer(whole.messages[:5], fate="hangs")

    options = OpenAiOptions(deadline_s=10)
    level = put(script, Closed(1), duration_s=240.0, options=options).levels[0]
    assert value(level, "output_token_throughput") == pytest.approx(2 * TOKENS / 12, rel=0.01)
    assert level.errors == {"timeout": 20}
    assert value(level, "adj_request_latency", "p50") == pytest.approx(1000)
    assert value(level, "adj_request_latency", "p75") == math.inf


@pytest.mark.parametrize("a_message", [2, 4, 8])
@pytest.mark.parametrize("counts", ["at the end", "in every message"])
def test_several_tokens_a_message_are_tokens_all_the_same(put: Put, a_message: int, counts: str) -> None:
    """Each message comes `a_message` x 20 ms after the one before."""

    def script(asked: Asked) -> Answer:
        answer = steadily(asked, ttft_s=0.2, itl_s=0.02, a_message=a_message)
        if counts == "at the end":
            return answer
        messages = [
            Message(one.at_s, one.content, usage={"completion_tokens": (index + 1) * a_message})
            for index, one in enumerate(answer.messages)
        ]
        return Answer(messages)

    found = put(script, Closed(4), duration_s=20.0)
    level, taken = found.levels[0], 0.2 + 0.02 * (TOKENS - a_message)
    assert value(level, "inter_token_latency") == pytest.approx(20, rel=0.01)
    assert value(level, "inter_chunk_latency") == pytest.approx(20 * a_message, rel=0.01)
    if counts == "at the end":
        assert value(level, "output_token_throughput") == pytest.approx(4 * TOKENS / taken, rel=0.01)
        assert found.token_source == "server"
    assert any(f"held {a_message} tokens on average" in note for note in found.notes)


def test_without_usage_and_tokenizer_the_count_is_called_an_estimate(put: Put) -> None:
    found = put(steady(0.1, 0.01, usage=False), Closed(1), num_requests=4)
    assert found.token_source == "responses"
    assert any("tokens are estimated, one a message" in note for note in found.notes)
    assert value(found.levels[0], "output_sequence_length") == TOKENS


def test_an_open_loop_within_capacity_gives_what_it_asks_for(put: Put) -> None:
    """80 % of what a worker can do, for long enough that a Poisson process is near its mean."""
    found = put(Queue(0.2), Open(4.0, "constant"), warmup_s=2.0, duration_s=40.0)
    level = found.levels[0]
    assert value(level, "request_throughput") == pytest.approx(4, rel=0.01)
    assert value(level, "output_token_throughput") == pytest.approx(4 * TOKENS, rel=0.01)
    assert value(level, "request_latency") == pytest.approx(200, rel=0.01)
    assert found.notes == ()


def test_an_open_loop_above_capacity_shows_the_capacity_and_says_so(put: Put) -> None:
    found = put(Queue(0.2), Open(10.0), duration_s=40.0, options=OpenAiOptions(deadline_s=300))
    assert value(found.levels[0], "output_token_throughput") == pytest.approx(5 * TOKENS, rel=0.01)
    assert any("this rate is above what the server can serve" in note for note in found.notes)
    assert any("not a steady state" in note for note in found.notes)


def test_an_open_loop_charges_a_stall_to_all_that_were_due_meanwhile(put: Put) -> None:
    """A server that stands still from 1 to 2 s; a closed loop hides what that means: coordinated omission."""

    def script(asked: Asked) -> Answer:
        waits = 2 - asked.at if 1 <= asked.at < 2 else 0.0
        return steadily(asked, ttft_s=0.005, itl_s=0.0, wait_s=waits)

    found = put(script, Open(50.0, "constant"), duration_s=4.0, prompts=prompts_of(1, tokens=1))
    assert [sample.scheduled_s for sample in found.samples] == pytest.approx([n / 50 for n in range(1, 200)])
    for sample in found.samples:
        waits = 2 - sample.scheduled_s if sample.scheduled_s + 1e-9 >= 1 and sample.scheduled_s < 2 else 0.0
        assert time_to_first_token(sample) == pytest.approx([5 + 1e3 * waits], abs=1e-3)
        assert send_lag(sample) == pytest.approx([0], abs=1e-3), "the generator waited for the server"
    closed = put(script, Closed(1), duration_s=4.0, prompts=prompts_of(1, tokens=1)).samples
    assert sum(value > 100 for sample in closed for value in time_to_first_token(sample)) == 1


def test_overload_with_a_deadline_is_not_flattered_by_what_was_given_up(put: Put) -> None:
    """A queue that grows by a second in two: after 10 s every request waits for longer than the deadline."""
    found = put(Queue(0.2), Open(10.0, "constant"), duration_s=40.0, options=OpenAiOptions(deadline_s=5))
    level = found.levels[0]
    assert level.errors == {"timeout": level.num_failed}
    assert value(level, "request_error_rate") > 70
    assert value(level, "request_latency") < 5000
    assert value(level, "adj_request_latency", "p50") == math.inf
    assert any("this rate is above what the server can serve" in note for note in found.notes)


def test_a_server_that_slows_down_is_no_steady_state(put: Put) -> None:
    def script(asked: Asked) -> Answer:
        return steadily(asked, ttft_s=0.1 if asked.at < 12 else 0.4, itl_s=0.001)

    assert any(
        "not a steady state" in note for note in put(script, Closed(2), warmup_s=2.0, duration_s=20.0).notes
    )


def test_a_trace_is_measured_until_its_last_answer(put: Put) -> None:
    """Three requests of 1 s at 0, 1 and 5 s."""
    rows = tuple(TraceRow(at_s) for at_s in (0.0, 1.0, 5.0))
    prompts = prompts_of(3, tokens=TOKENS)
    found = put(steady(0.37, 0.01), Trace("t", rows), prompts=prompts)
    level = found.levels[0]
    assert value(level, "benchmark_duration") == pytest.approx(6)
    assert value(level, "output_token_throughput") == pytest.approx(3 * TOKENS / 6)
    assert value(level, "request_throughput") == pytest.approx(3 / 6)
    assert [sample.prompt_id for sample in found.samples] == ["p0", "p1", "p2"]
    cut = put(steady(0.37, 0.01), Trace("t", rows), prompts=prompts, duration_s=4.0).levels[0]
    assert (cut.num_requests, value(cut, "benchmark_duration")) == (2, pytest.approx(4))


def test_fewer_requests_than_users_are_measured_until_the_last_answer(put: Put) -> None:
    found = put(steady(0.37, 0.01), Closed(8), num_requests=3)
    assert value(found.levels[0], "output_token_throughput") == pytest.approx(3 * TOKENS / 1.0)
    assert any("3 requests are fewer than 8 users" in note for note in found.notes)


def test_so_many_requests_to_a_server_that_dies_are_charged_the_time_of_their_failures(put: Put) -> None:
    """4 users, 1 s a request, dead after 2.5 s; the rest is asked for in vain, four times a second each."""
    found = put(steady(0.37, 0.01), Closed(4), num_requests=24, dies_at=2.5)
    level = found.levels[0]
    # 12 requests began before the death, 4 of them in vain; the other 12 take three rounds of retries.
    assert (level.num_requests, level.num_failed) == (24, 16)
    duration = value(level, "benchmark_duration")
    assert 2.5 + 2 * 0.25 <= duration <= 2.5 + 4 * 0.25
    assert value(level, "output_token_throughput") == pytest.approx(8 * TOKENS / duration)


def test_all_requests_failing_is_no_throughput_and_no_latency_but_infinite_ones(put: Put) -> None:
    def refuse(asked: Asked) -> Answer:
        return Answer(fate="refused")

    level = put(refuse, Closed(2), num_requests=100).levels[0]
    assert value(level, "request_error_rate") == 100
    assert "time_to_first_token" not in level.metrics
    assert value(level, "adj_time_to_first_token", "p50") == math.inf
