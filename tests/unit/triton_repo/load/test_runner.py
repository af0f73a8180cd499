"""What the load generator measures, held against a server that writes down what it did."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers.scripted_server import Script, scripted_server
from tests.support.servers.virtual_triton import VirtualTriton, measure_virtually
from tests.support.virtual_time import run_virtually
from tpforge.measure.runs.latencies import request_latency
from tpforge.measure.runs.metrics import summarize
from tpforge.measure.runs.prompts import Prompt
from tpforge.measure.runs.samples import Sample
from triton_repo.client.client import Client
from triton_repo.load import triton_target
from triton_repo.load.counting import Counting
from triton_repo.load.exchange import Exchange, Reading
from triton_repo.load.measuring import Measured, Plan, measure
from triton_repo.load.reading import read_repetition
from triton_repo.load.runner import Extent, _without_garbage_collection, run_repetition
from triton_repo.load.schedule import Closed, Load, Open
from triton_repo.load.triton_target import TritonOptions, TritonTarget, describe_model

TOKENS = 12
PROMPTS = tuple(Prompt(id=f"p{number}", text=f"prompt {number}", max_tokens=TOKENS) for number in range(3))


def put(url: str, *loads: Load, deadline_s: float = 60.0, **extent: float) -> Measured:
    with Client(url, deadline_s=60) as client:
        model = describe_model(client, "ensemble")
    target = TritonTarget(url, model, options=TritonOptions(deadline_s=deadline_s))
    plan = Plan(
        loads=loads,
        prompts=PROMPTS,
        extent=Extent(**extent),  # type: ignore[arg-type]
    )
    return measure(target, plan)


def virtually(
    monkeypatch: pytest.MonkeyPatch,
    script: Script,
    *loads: Load,
    deadline_s: float = 10.0,
    repeats: int = 1,
    **extent: float,
) -> tuple[Measured, VirtualTriton]:
    plan = Plan(loads=loads, prompts=PROMPTS, extent=Extent(**extent), num_repeats=repeats)  # type: ignore[arg-type]
    return measure_virtually(monkeypatch, script, plan, deadline_s=deadline_s)


def errors(samples: Sequence[Sample]) -> dict[str | None, int]:
    kinds = [sample.error_kind for sample in samples]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds), key=str)}


def test_tokens_are_stamped_when_they_come_and_read_when_nobody_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Reading a message costs a second here: no stamp and no request may be later for it."""
    read = triton_target.decode_response

    def slowly(message: Any) -> Any:
        asyncio.get_running_loop()._jumping.now += 1.0  # type: ignore[attr-defined]
        return read(message)

    monkeypatch.setattr(triton_target, "decode_response", slowly)
    measured, server = virtually(monkeypatch, Script(ttft_s=0.05, itl_s=0.01), Closed(2), num_requests=20)
    begun = [0.16 * (number // 2) for number in range(20)]
    assert [sample.scheduled_s for sample in measured.samples] == pytest.approx(begun)
    stamps = [stamp for sample in measured.samples for stamp in sample.token_times_s]
    assert stamps == pytest.approx([stamp for stamps in server.sent for stamp in stamps])
    assert len(stamps) == 20 * TOKENS


def test_no_token_is_stamped_before_a_real_server_sent_it(tmp_path: Path) -> None:
    async def run(target: TritonTarget) -> list[Exchange]:
        target.prepare(PROMPTS)
        await target.open()
        extent = Extent(num_requests=20)
        found = await run_repetition(target, Closed(1), PROMPTS, extent=extent, interrupt=asyncio.Event())
        await target.close()
        return found.exchanges

    with scripted_server(tmp_path, Script(ttft_s=0.05, itl_s=0.01)) as server:
        with Client(server.url, deadline_s=60) as client:
            model = describe_model(client, "ensemble")
        exchanges = asyncio.run(run(TritonTarget(server.url, model, options=TritonOptions())))
        sent = sorted(server.sent())
    # Both processes read the same clock of the machine.
    found = sorted(exchange.arrivals for exchange in exchanges)
    assert [len(stamps) for stamps in found] == [TOKENS] * 20
    for arrivals, sendings in zip(found, sent, strict=True):
        assert all(arrival > sending for arrival, sending in zip(arrivals, sendings, strict=True))
    for exchange in exchanges:
        assert exchange.sent is not None and exchange.ended is not None
        stamps = [exchange.scheduled, exchange.sent, *exchange.arrivals, exchange.ended]
        assert stamps == sorted(stamps)


def test_latencies_are_those_of_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    measured, _ = virtually(monkeypatch, Script(ttft_s=0.08, itl_s=0.02), Closed(1), num_requests=10)
    metrics = measured.levels[0].metrics
    first = metrics["time_to_first_token"]
    assert (first.min, first.max) == (pytest.approx(80), pytest.approx(80))
    for sample in measured.samples:
        assert request_latency(sample) == pytest.approx([80 + 20 * (TOKENS - 1)])
    assert metrics["output_sequence_length"].avg == TOKENS
    assert {sample.finish_reason for sample in measured.samples} == {"length"}


def test_stall_shows_in_the_gap_between_two_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(itl_s=0.01, stall_at_s=0.1, stall_s=0.4)
    measured, _ = virtually(monkeypatch, script, Closed(1), num_requests=1)
    # The last token before the stall comes 90 ms after the request, the next one when it is over.
    assert measured.levels[0].metrics["inter_chunk_latency"].max == pytest.approx(410)


def test_errors_to_a_third_of_the_requests_are_counted_apart(tmp_path: Path) -> None:
    with scripted_server(tmp_path, Script(ttft_s=0.01, itl_s=0.001, refuse_every=3)) as server:
        measured = put(server.url, Closed(3), num_requests=30)
    assert errors(measured.samples) == {None: 20, "refused": 10}
    level = measured.levels[0]
    assert level.errors == {"refused": 10}
    assert level.metrics["request_error_rate"].avg == pytest.approx(100 / 3)
    assert level.metrics["time_to_first_token"].count == 20
    assert {sample.error for sample in measured.samples if sample.error} == {"not this one"}


def test_server_that_dies_in_the_middle_ends_the_run_with_every_sample(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Four users, a token each every 10 ms; after 60 tokens, in their second answers, nobody is there."""
    script = Script(ttft_s=0.02, itl_s=0.01, die_after=60)
    measured, server = virtually(monkeypatch, script, Closed(4), duration_s=1.5)
    # The death comes at 0.19 s; then each user asks four times a second, until the time of a pass is over.
    found = errors(measured.samples)
    assert server.num_tokens == 60
    assert set(found) == {None, "broken", "unreachable"}
    assert (found[None], found["broken"]) == (4, 4)
    assert len(measured.samples) % len(PROMPTS) == 0, "the pass that had begun is asked to its end"
    due = sorted({s.scheduled_s for s in measured.samples if s.error_kind == "unreachable"})
    assert [later - earlier for earlier, later in pairwise(due)] == pytest.approx([0.25] * (len(due) - 1))
    assert 1.5 - 0.25 <= due[-1] <= 2 * 1.5
    assert sorted(sample.index for sample in measured.samples) == list(range(len(measured.samples)))
    broken = [sample for sample in measured.samples if sample.error_kind == "broken"]
    assert all(sample.token_times_s for sample in broken), "the tokens before the death are kept"
    assert measured.levels[0].num_failed == found["broken"] + found["unreachable"]


def test_a_real_server_that_dies_is_told_from_one_that_is_not_there(tmp_path: Path) -> None:
    with scripted_server(tmp_path, Script(ttft_s=0.02, itl_s=0.01, die_after=60)) as server:
        measured = put(server.url, Closed(4), num_requests=12)
    found = errors(measured.samples)
    assert (found[None], found["broken"], found["unreachable"]) == (4, 4, 4)


def test_server_that_never_answers_lets_the_run_end_at_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load = Open(20.0, "constant")
    measured, _ = virtually(monkeypatch, Script(silent=True), load, duration_s=0.5, deadline_s=1.0)
    assert errors(measured.samples) == {"timeout": 9}
    for sample in measured.samples:
        assert sample.ended_s == pytest.approx(sample.scheduled_s + 1.0)
    assert "time_to_first_token" not in measured.levels[0].metrics
    assert measured.levels[0].metrics["request_error_rate"].avg == 100


def test_stream_without_its_final_flag_is_incomplete(tmp_path: Path) -> None:
    with scripted_server(tmp_path, Script(ttft_s=0.0, itl_s=0.0, no_final=True)) as server:
        measured = put(server.url, Closed(1), num_requests=2)
    assert errors(measured.samples) == {"incomplete": 2}


def test_warmup_is_kept_but_not_counted_and_repeats_give_an_interval(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = Script(ttft_s=0.01, itl_s=0.002)
    measured, _ = virtually(monkeypatch, script, Closed(2), warmup_s=0.3, duration_s=0.6, repeats=3)
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
        assert repeat.duration_s == 0.6 or 0.9 <= last_begun <= repeat.end_s + 1e-9
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
        exchange.ended = asyncio.get_running_loop().time()

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

    done, cancelled, interrupted = run_virtually(run())
    assert done == 6
    assert (cancelled, interrupted) == (2, True)


def test_a_repeat_in_which_no_request_began_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its only request began in the warmup and outlasted the repeat."""
    script = Script(stall_at_s=0, stall_s=1.5)
    found, _ = virtually(monkeypatch, script, Closed(1), repeats=3, warmup_s=0.2, duration_s=0.5)
    (level,) = found.levels
    assert len(level.repeats) == 2
    assert {sample.repeat for sample in found.samples} == {0, 1}
    assert summarize(found.samples, level.repeats) == level.metrics
    assert (
        "concurrency 1: no request began after 0.2 s of warmup in repeat 1, which is left out: a request "
        "took up to 1.5 s; --duration 15 has ten of a user's, --max-tokens bounds them"
    ) in found.notes


def test_levels_are_numbered_as_they_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(stall_at_s=0, stall_s=1.5)
    found, _ = virtually(monkeypatch, script, Closed(1), Closed(2), warmup_s=0.2, duration_s=0.5)
    assert [level.name for level in found.levels] == ["concurrency 2"]
    assert {sample.level for sample in found.samples} == {0}


def test_a_run_frees_what_it_kept_from_the_search_for_cycles_unless_others_keep_more() -> None:
    gc.unfreeze()
    try:
        with _without_garbage_collection():
            assert gc.get_freeze_count() > 0
        assert gc.get_freeze_count() == 0
    finally:
        gc.freeze()
    kept = gc.get_freeze_count()
    with _without_garbage_collection():
        pass
    assert gc.get_freeze_count() >= kept
