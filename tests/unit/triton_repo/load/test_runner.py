"""What the load generator measures, held against a server that writes down what it did."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.servers.scripted_server import Script, scripted_server
from tpforge.measure.runs.latencies import request_latency
from tpforge.measure.runs.metrics import summarize
from tpforge.measure.runs.prompts import Prompt
from tpforge.measure.runs.samples import Sample
from tpforge.measure.statistics import percentile
from triton_repo.client.client import Client
from triton_repo.load.counting import Counting
from triton_repo.load.exchange import Exchange, Reading
from triton_repo.load.measuring import Measured, Plan, measure
from triton_repo.load.reading import read_repetition
from triton_repo.load.runner import Extent, run_repetition
from triton_repo.load.schedule import Closed, Load, Open
from triton_repo.load.triton_target import TritonOptions, TritonTarget, describe_model

TOKENS = 12
PROMPTS = tuple(Prompt(id=f"p{number}", text=f"prompt {number}", max_tokens=TOKENS) for number in range(3))
TOLERANCE_S = 0.002


def put(url: str, *loads: Load, deadline_s: float = 10.0, repeats: int = 1, **extent: float) -> Measured:
    with Client(url, deadline_s=5) as client:
        model = describe_model(client, "ensemble")
    target = TritonTarget(url, model, options=TritonOptions(deadline_s=deadline_s))
    plan = Plan(
        loads=loads,
        prompts=PROMPTS,
        extent=Extent(**extent),  # type: ignore[arg-type]
        num_repeats=repeats,
    )
    return measure(target, plan)


def errors(samples: Sequence[Sample]) -> dict[str | None, int]:
    kinds = [sample.error_kind for sample in samples]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds), key=str)}


def test_tokens_are_stamped_within_2_ms_of_their_sending(tmp_path: Path) -> None:
    async def run(target: TritonTarget) -> list[Exchange]:
        target.prepare(PROMPTS)
        await target.open()
        extent = Extent(num_requests=20)
        found = await run_repetition(target, Closed(2), PROMPTS, extent=extent, interrupt=asyncio.Event())
        await target.close()
        return found.exchanges

    with scripted_server(tmp_path, Script(ttft_s=0.05, itl_s=0.01)) as server:
        with Client(server.url, deadline_s=5) as client:
            model = describe_model(client, "ensemble")
        exchanges = asyncio.run(run(TritonTarget(server.url, model, options=TritonOptions())))
        sent = sorted(server.sent())
    found = sorted(exchange.arrivals for exchange in exchanges)
    assert [len(stamps) for stamps in found] == [TOKENS] * 20
    # Both processes read the same clock of the machine.
    delays = [
        arrival - sending
        for arrivals, sendings in zip(found, sent, strict=True)
        for arrival, sending in zip(arrivals, sendings, strict=True)
    ]
    # Whatever else the machine does, the quickest quarter tells what the client itself adds.
    assert min(delays) > 0
    assert percentile(delays, 25) < TOLERANCE_S


def test_latencies_are_never_less_than_those_of_the_script(tmp_path: Path) -> None:
    """The server's clock starts when the request reaches it; the way there is the client's to pay."""
    with scripted_server(tmp_path, Script(ttft_s=0.08, itl_s=0.02)) as server:
        measured = put(server.url, Closed(1), num_requests=10)
    metrics = measured.levels[0].metrics
    least_ms = metrics["time_to_first_token"].min
    assert least_ms is not None and least_ms > 80 - 0.1
    for sample in measured.samples:
        assert request_latency(sample)[0] > 80 + 20 * (TOKENS - 1) - 0.1
    assert metrics["output_sequence_length"].avg == TOKENS
    assert {sample.finish_reason for sample in measured.samples} == {"length"}


def test_stall_shows_in_the_gap_between_two_tokens(tmp_path: Path) -> None:
    with scripted_server(tmp_path, Script(itl_s=0.01, stall_at_s=0.1, stall_s=0.4)) as server:
        measured = put(server.url, Closed(1), num_requests=1)
        stamps = server.sent()[0]
    own = max(later - earlier for earlier, later in pairwise(stamps)) * 1e3
    found = measured.levels[0].metrics["inter_chunk_latency"].max
    assert own > 350
    assert found == pytest.approx(own, abs=2)


def test_errors_to_a_third_of_the_requests_are_counted_apart(tmp_path: Path) -> None:
    with scripted_server(tmp_path, Script(ttft_s=0.01, itl_s=0.001, refuse_every=3)) as server:
        measured = put(server.url, Closed(3), num_requests=30)
    assert errors(measured.samples) == {None: 20, "refused": 10}
    level = measured.levels[0]
    assert level.errors == {"refused": 10}
    assert level.metrics["request_error_rate"].avg == pytest.approx(100 / 3)
    assert level.metrics["time_to_first_token"].count == 20
    assert {sample.error for sample in measured.samples if sample.error} == {"not this one"}


def test_server_that_dies_in_the_middle_ends_the_run_with_every_sample(tmp_path: Path) -> None:
    with scripted_server(tmp_path, Script(ttft_s=0.02, itl_s=0.01, die_after=60)) as server:
        begun = time.monotonic()
        measured = put(server.url, Closed(4), duration_s=1.5)
        taken = time.monotonic() - begun
    found = errors(measured.samples)
    assert taken < 5
    assert set(found) == {None, "broken", "unreachable"}
    assert (found[None], found["broken"]) == (4, 4)
    assert 4 <= found["unreachable"] <= 4 * 1.5 / 0.25 + 4, "a dead server is not asked without a pause"
    assert sorted(sample.index for sample in measured.samples) == list(range(len(measured.samples)))
    broken = [sample for sample in measured.samples if sample.error_kind == "broken"]
    assert all(sample.token_times_s for sample in broken), "the tokens before the death are kept"
    assert measured.levels[0].num_failed == found["broken"] + found["unreachable"]


def test_server_that_never_answers_lets_the_run_end_at_the_deadline(tmp_path: Path) -> None:
    with scripted_server(tmp_path, Script(silent=True)) as server:
        begun = time.monotonic()
        measured = put(server.url, Open(20.0, "constant"), duration_s=0.5, deadline_s=1.0)
        taken = time.monotonic() - begun
    assert 1.0 < taken < 4
    assert errors(measured.samples) == {"timeout": 9}
    assert "time_to_first_token" not in measured.levels[0].metrics
    assert measured.levels[0].metrics["request_error_rate"].avg == 100


def test_stream_without_its_final_flag_is_incomplete(tmp_path: Path) -> None:
    with scripted_server(tmp_path, Script(ttft_s=0.0, itl_s=0.0, no_final=True)) as server:
        measured = put(server.url, Closed(1), num_requests=2)
    assert errors(measured.samples) == {"incomplete": 2}


def test_warmup_is_kept_but_not_counted_and_repeats_give_an_interval(tmp_path: Path) -> None:
    with scripted_server(tmp_path, Script(ttft_s=0.01, itl_s=0.002)) as server:
        measured = put(server.url, Closed(2), warmup_s=0.3, duration_s=0.6, repeats=3)
    level = measured.levels[0]
    warmup = [sample for sample in measured.samples if sample.phase == "warmup"]
    assert warmup and all(sample.scheduled_s < 0.3 for sample in warmup)
    counted = [sample for sample in measured.samples if sample.phase == "measured"]
    assert all(0.3 <= sample.scheduled_s < 0.3 + 2 * 0.6 for sample in counted)
    assert level.num_requests == len(counted)
    assert len(set(level.mix.values())) == 1, "every prompt was asked equally often"
    assert len(level.repeats) == 3
    interval = level.metrics["time_to_first_token"].interval
    assert interval is not None and interval.n == 3
    for number, repeat in enumerate(level.repeats):
        assert repeat.warmup_s == 0.3 and repeat.duration_s >= 0.6
        # The window ends with its time, or when the first user found that the last pass was over.
        last_begun = max(s.scheduled_s for s in counted if s.repeat == number)
        assert repeat.duration_s == 0.6 or 0.9 <= last_begun <= repeat.end_s
    assert level.metrics == summarize(measured.samples, level.repeats)


class _Instant:
    """A target that answers at once, to see what the runner alone does; then it interrupts it."""

    def __init__(self, *, interrupt_after: int, interrupt: asyncio.Event) -> None:
        self._left, self._interrupt = interrupt_after, interrupt

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def prepare(self, prompts: Sequence[Prompt]) -> None: ...

    async def run(self, exchange: Exchange) -> None:
        if self._left == 0:
            self._interrupt.set()
            await asyncio.sleep(60)
        self._left -= 1
        await asyncio.sleep(0.01)
        exchange.ended = time.monotonic()

    def read(self, exchange: Exchange) -> Reading:
        return Reading(pieces=(), text="", failure=exchange.failure)


def test_interrupt_keeps_what_was_measured_and_names_the_rest_cancelled() -> None:
    async def run() -> tuple[int, int, bool]:
        interrupt = asyncio.Event()
        target, extent = _Instant(interrupt_after=6, interrupt=interrupt), Extent(duration_s=60)
        found = await run_repetition(target, Closed(2), PROMPTS, extent=extent, interrupt=interrupt)
        read = read_repetition(target, found, extent=extent, level=0, repeat=0, counting=Counting())
        cancelled = sum(sample.error_kind == "cancelled" for sample in read.samples)
        return len(read.samples) - cancelled, cancelled, bool(read.record and read.record.interrupted)

    done, cancelled, interrupted = asyncio.run(run())
    assert done == 6
    assert (cancelled, interrupted) == (2, True)


def test_a_repeat_in_which_no_request_began_is_left_out_and_named(tmp_path: Path) -> None:
    """Its only request began in the warmup and outlasted the repeat."""
    with scripted_server(tmp_path, Script(stall_at_s=0, stall_s=1.0)) as server:
        found = put(server.url, Closed(1), repeats=3, warmup_s=0.2, duration_s=0.5)
    (level,) = found.levels
    assert len(level.repeats) == 2
    assert {sample.repeat for sample in found.samples} == {0, 1}
    assert summarize(found.samples, level.repeats) == level.metrics
    assert (
        "concurrency 1: no request began after the warmup of repeat 0, which is left out; measure for longer"
    ) in found.notes


def test_levels_are_numbered_as_they_are_recorded(tmp_path: Path) -> None:
    with scripted_server(tmp_path, Script(stall_at_s=0, stall_s=1.0)) as server:
        found = put(server.url, Closed(1), Closed(2), warmup_s=0.2, duration_s=0.5)
    assert [level.name for level in found.levels] == ["concurrency 2"]
    assert {sample.level for sample in found.samples} == {0}
