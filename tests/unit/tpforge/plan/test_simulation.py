"""The simulated server against queueing theory, a walk step by step, and measured servers."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator
from dataclasses import replace

import pytest

from benchmarks.latency import estimates, latency_rows
from tests.unit.tpforge.plan.test_choose import plan
from tests.unit.tpforge.plan.test_speed import make_engine
from tpforge.errors import NothingFits
from tpforge.plan.options.option import Ask
from tpforge.plan.options.percentiles import REQUESTS, simulate
from tpforge.plan.speed.calibration import calibration
from tpforge.plan.speed.load import Load, Tokens
from tpforge.plan.speed.simulation import Request, Server, serve_as_they_come, serve_at_once
from tpforge.plan.speed.speculation import NO_DRAFTS, Drafts
from tpforge.plan.speed.throughput import StepModel, StepTime

LOAD = Load(1000, 100)


class Scripted(StepModel):
    """Steps of 10 ms, 1 ms more for a request, 1 us for a token of a prompt, 10 ns for a cached one."""

    def __init__(self, *, slots: int = 64, budget: int = 8192) -> None:
        engine = make_engine("llama-3.1-8b", "h100-sxm", tp=1)
        settings = replace(engine.settings, max_batch_size=slots, max_num_tokens=budget)
        super().__init__(replace(engine, settings=settings), calibration().fit)

    def time(self, tokens: Tokens, *, drafts: Drafts = NO_DRAFTS) -> StepTime:
        seconds = 10e-3 + 1e-3 * tokens.batch + 1e-6 * tokens.prompt + 1e-8 * tokens.batch * tokens.context
        return StepTime(seconds, 0, 0, 0)


def walked(model: Scripted, requests: list[Request]) -> tuple[list[float], list[float]]:
    """First tokens and times per token, every step taken by itself."""
    settings = model.engine.settings
    now, ahead, waiting = 0.0, list(requests), list[Request]()
    reading = list[list[int]]()
    running = list[list[float]]()
    first_s, token_s, born = list[float](), list[float](), dict[int, Request]()
    while ahead or waiting or reading or running:
        if not (waiting or reading or running):
            now = max(now, ahead[0].at_s)
        while ahead and ahead[0].at_s <= now:
            waiting.append(ahead.pop(0))
        while waiting and len(reading) + len(running) < settings.max_batch_size:
            born[len(born)] = waiting[0]
            reading.append([len(born) - 1, waiting.pop(0).input_tokens])
        budget, prompt, done = settings.max_num_tokens - len(running), 0, list[int]()
        while reading and prompt < budget:
            taken = min(reading[0][1], budget - prompt)
            prompt += taken
            reading[0][1] -= taken
            if not reading[0][1]:
                done.append(reading.pop(0)[0])
        context = sum(one[1] for one in running)
        now += 10e-3 + 1e-3 * len(running) + 1e-6 * prompt + 1e-8 * context
        for one in list(running):
            one[1] += 1
            one[2] -= 1
            if not one[2]:
                running.remove(one)
                token_s.append((now - one[3]) / (born[int(one[0])].output_tokens - 1))
        for index in done:
            request = born[index]
            first_s.append(now - request.at_s)
            running.append([index, request.input_tokens, request.output_tokens - 1, now])
    return first_s, token_s


def some(number: int, *, rate: float) -> list[Request]:
    chance, now = random.Random(3), 0.0
    found = []
    for _ in range(number):
        now += chance.expovariate(rate)
        found.append(Request(now, chance.randrange(10, 3000), chance.randrange(2, 80)))
    return found


@pytest.mark.parametrize(("slots", "budget"), [(64, 8192), (4, 8192), (64, 700)])
def test_it_serves_as_a_walk_over_every_single_step_does(slots: int, budget: int) -> None:
    model = Scripted(slots=slots, budget=budget)
    requests = some(120, rate=9)
    found = serve_as_they_come(Server(model, load=LOAD, scale=1), iter(requests), enough=10**6)
    first_s, token_s = walked(model, requests)
    assert len(found.first_s) == len(found.token_s) == 120
    assert found.first_s == pytest.approx(first_s)
    assert sorted(found.token_s) == pytest.approx(sorted(token_s))


def test_one_slot_and_random_arrivals_wait_as_queueing_theory_says() -> None:
    """Pollaczek and Khinchine: of an M/D/1 queue the mean wait is busy x service / (2 (1 - busy))."""
    chance, now, requests = random.Random(7), 0.0, []
    for _ in range(40000):
        now += chance.expovariate(50)
        requests.append(Request(now, 1, 1))
    found = serve_as_they_come(Server(Scripted(slots=1), load=LOAD, scale=1), iter(requests), enough=40000)
    service = 10.001e-3
    busy = 50 * service
    waited = statistics.fmean(found.first_s) - service
    assert waited == pytest.approx(busy * service / (2 * (1 - busy)), rel=0.05)


def test_requests_wait_for_cache_and_none_is_taken_in_before_those_that_came_first() -> None:
    model = Scripted()
    room = model.engine.memory.max_requests(100_000)
    assert 1 < room < 10
    requests = [Request(0.0, 99_000, 1000) for _ in range(room + 1)] + [Request(0.0, 10, 10)]
    found = serve_as_they_come(Server(model, load=LOAD, scale=1), iter(requests), enough=len(requests))
    # The last two came at once and got their first token after an answer of 1000 tokens had ended.
    assert max(found.first_s[:room]) < 999 * 10e-3 < min(found.first_s[room:])


def test_a_closed_loop_asks_again_when_an_answer_ends() -> None:
    def same() -> Iterator[Request]:
        while True:
            yield Request(0.0, 100, 11)

    found = serve_at_once(Server(Scripted(), load=LOAD, scale=1), same(), number=1, enough=5)
    read = 10e-3 + 100e-6
    assert found.first_s == pytest.approx([read] * 5)
    # Ten steps after the first token, over a cache of 100 to 109 tokens.
    assert found.token_s == pytest.approx([11e-3 + 104.5e-8] * 4, rel=1e-3)


def test_twice_the_speed_halves_every_wait_of_a_closed_loop() -> None:
    model = StepModel(make_engine("llama-3.1-8b", "h100-sxm", tp=1), calibration().fit)
    once, twice = (simulate(model, Load(1000, 200), busy=16, scale=scale) for scale in (1.0, 2.0))
    assert once.num_requests == twice.num_requests == REQUESTS
    assert once.ttft.p95_ms == pytest.approx(2 * twice.ttft.p95_ms)
    assert once.tpot.p50_ms == pytest.approx(2 * twice.tpot.p50_ms)


def test_percentiles_are_in_order_and_a_rate_near_the_most_makes_tails() -> None:
    model = StepModel(make_engine("llama-3.1-8b", "h100-sxm", tp=1), calibration().fit)
    calm, full = (
        simulate(model, Load(2000, 200, requests_per_second=rate), busy=busy)
        for rate, busy in ((2.0, 4), (17.0, 90))
    )
    for found in (calm, full):
        assert found.ttft.p50_ms <= found.ttft.p95_ms
        assert found.tpot.p50_ms <= found.tpot.p95_ms
    assert full.ttft.p95_ms / full.ttft.p50_ms > calm.ttft.p95_ms / calm.ttft.p50_ms
    assert full.ttft.mean_ms > calm.ttft.mean_ms


def test_the_simulated_first_token_is_within_35_percent_in_the_median_of_unseen_rows() -> None:
    fit = calibration().fit
    unseen = [row for row in latency_rows() if not row.is_fitted][::4]
    found = [
        abs(simulate(StepModel(row.engine, fit), row.load, busy=one.batch).ttft.mean_ms / row.ttft_ms - 1)
        for row, one in estimates(fit, unseen)
    ]
    assert len(found) > 100
    assert statistics.median(found) < 0.35
    assert sorted(found)[int(0.9 * len(found))] < 0.80


def test_an_option_that_only_a_steady_load_keeps_within_the_limit_is_rejected_for_its_queue() -> None:
    def asked(ttft_ms: float | None) -> Ask:
        load = Load(4000, 100, requests_per_second=4.2)
        return Ask(load, 4100, ttft_ms=ttft_ms, formats=(None,), kv_dtypes=("bfloat16",))

    free = plan("llama-3.1-8b", "h100-sxm", 1, ask=asked(None))
    assert free.chosen.speed is not None
    steady, queued = free.chosen.speed.ttft_ms, free.simulated.ttft.mean_ms
    assert steady < 0.9 * queued
    with pytest.raises(NothingFits, match="requests that come at random times, more than"):
        plan("llama-3.1-8b", "h100-sxm", 1, ask=asked((steady + queued) / 2))


def test_a_limit_that_the_mean_keeps_and_p95_breaks_is_a_warning() -> None:
    load = Load(4000, 100, requests_per_second=4.2)
    ask = Ask(load, 4100, formats=(None,), kv_dtypes=("bfloat16",))
    waits = plan("llama-3.1-8b", "h100-sxm", 1, ask=ask).simulated.ttft
    between = replace(ask, ttft_ms=(waits.mean_ms + waits.p95_ms) / 2)
    found = plan("llama-3.1-8b", "h100-sxm", 1, ask=between)
    said = next(one for one in found.advice if one.rule == "p95-risk")
    assert said.level == "warning"
    assert f"p95 does not: {waits.p95_ms:.0f} ms simulated" in said.text
    calm = plan("llama-3.1-8b", "h100-sxm", 1, ask=replace(ask, ttft_ms=2 * waits.p95_ms))
    assert next(one for one in calm.advice if one.rule == "p95-risk").level == "note"


def test_a_trace_is_served_as_it_comes() -> None:
    """Eight at once every ten seconds wait longer than one every 1.25 seconds."""
    burst = tuple(Request(10.0 * (index // 8), 4000, 100) for index in range(80))
    even = tuple(Request(1.25 * index, 4000, 100) for index in range(80))
    load = Load(4000, 100, requests_per_second=0.8)
    waits = [
        plan("llama-3.1-8b", "h100-sxm", 1, ask=Ask(load, 4100, requests=one)).simulated
        for one in (burst, even)
    ]
    assert [one.num_requests for one in waits] == [80, 80]
    assert waits[0].ttft.p95_ms > 3 * waits[1].ttft.p95_ms


@pytest.mark.parametrize("concurrency", [40, 300, 1500, 10**9])
def test_a_line_of_any_length_is_waited_for_whole(concurrency: int) -> None:
    """By Little's law: a request waits for as many answers as stand before it, divided by the slots."""
    model, load = Scripted(slots=16), replace(LOAD, concurrency=concurrency)
    found = simulate(model, load, busy=16)
    assert found.num_requests >= REQUESTS
    step_s = 10e-3 + 16e-3 + 16 * 1e-8 * 1050 + 1e-6 * 1000 * 16 / 100
    waits_s = (concurrency - 16) / 16 * 100 * step_s
    assert found.ttft.mean_ms == pytest.approx(1e3 * waits_s, rel=0.06 if concurrency > 40 else 0.3)
    assert found.ttft.p95_ms - found.ttft.p50_ms < 1e3 * 100 * step_s
