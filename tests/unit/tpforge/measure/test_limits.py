"""Limits of a system: kept, broken, undecided and not measured are four things."""

from __future__ import annotations

import pytest

from tests.support.runs import GIB, level_of, run_of
from tpforge.measure.comparison.limits import Limits, check_level, levels_within
from tpforge.measure.decisions.decision import Production, Request, unkept_limits

FAST = ((0.10, 0.11), (0.12, 0.10), (0.11, 0.13))
SLOW = ((0.30, 0.31), (0.32, 0.30), (0.31, 0.33))
REQUEST = Request(question="?", recommend="a", fallback="b", because="so")
QUICK, _ = level_of(FAST, concurrency=1, memory={0: (9 * GIB, 10 * GIB)}, copies=20)
LATE, _ = level_of(SLOW, concurrency=4, memory={0: (9 * GIB, 12 * GIB)}, copies=20)


def test_limits_are_kept_level_by_level() -> None:
    measured = run_of("a", [QUICK, LATE])
    assert levels_within(measured, Limits(ttft_p95_ms=200)) == ("concurrency 1",)
    assert levels_within(measured, Limits(max_gpu_memory_gib=11)) == ("concurrency 1",)
    both = Limits(max_gpu_memory_gib=13, itl_p95_ms=21)
    assert levels_within(measured, both) == ("concurrency 1", "concurrency 4")
    assert levels_within(measured, Limits(min_tokens_per_second=4.1)) == ()
    asked = REQUEST.model_copy(update={"limits": Limits(ttft_p95_ms=200)})
    assert unkept_limits(measured, asked) == ()


def test_a_limit_is_looked_at_where_the_expected_load_is_whatever_the_order_of_levels() -> None:
    asked = REQUEST.model_copy(
        update={"limits": Limits(ttft_p95_ms=200), "production": Production(concurrency=3)}
    )
    eight, _ = level_of(FAST, concurrency=8, copies=20)
    said = ("a does not keep TTFT p95 <= 200 ms: 330 ms [305.3, 356.6] at concurrency 4",)
    assert unkept_limits(run_of("a", [eight, LATE, QUICK]), asked) == said
    at_nine = asked.model_copy(update={"production": Production(concurrency=9)})
    (said_of_nine,) = unkept_limits(run_of("a", [QUICK, LATE]), at_nine)
    assert said_of_nine == "a was not measured at the expected concurrency of 9"


@pytest.mark.parametrize(
    ("limits", "state"),
    [
        (Limits(ttft_p95_ms=400), "kept"),
        (Limits(ttft_p95_ms=340), "undecided"),
        (Limits(ttft_p95_ms=300), "broken"),
        (Limits(min_tokens_per_second=3), "kept"),
        (Limits(min_tokens_per_second=5), "broken"),
        (Limits(max_error_percent=5), "kept"),
        (Limits(max_error_percent=0.5), "undecided"),
    ],
)
def test_a_limit_is_judged_by_the_whole_interval(limits: Limits, state: str) -> None:
    # p95 330 ms [305, 357]; 4 tokens/s; none of 120 requests failed, of which Wilson says at most 3.1 %.
    assert [result.state for result in check_level(LATE, limits)] == [state]


def test_what_was_not_measured_is_not_kept() -> None:
    few, _ = level_of(FAST)
    limits = Limits(ttft_p95_ms=9e9, max_gpu_memory_gib=80)
    found = check_level(few, limits)
    assert [result.state for result in found] == ["not measured", "not measured"]
    without = few.model_copy(
        update={"metrics": {k: v for k, v in few.metrics.items() if k != "inter_token_latency"}}
    )
    assert [one.state for one in check_level(without, Limits(itl_p95_ms=9e9))] == ["not measured"]
    assert levels_within(run_of("a", [few]), limits) == ()
    said = unkept_limits(run_of("a", [few]), REQUEST.model_copy(update={"limits": limits}))
    assert said[1] == (
        "whether a keeps memory of each GPU <= 80 GiB was not measured at concurrency 1: no GPU was read"
    )


def test_a_level_at_which_requests_failed_does_not_keep_a_latency() -> None:
    refusing, _ = level_of(FAST, copies=20, num_failed=39)
    found = check_level(refusing, Limits(ttft_p95_ms=200, max_error_percent=1))
    assert [result.state for result in found] == ["broken", "broken"]
    assert found[0].evidence == "infinite, since too many requests failed"


def test_a_single_repeat_can_break_a_limit_and_not_keep_it() -> None:
    once, _ = level_of(SLOW[:1], copies=60)
    states = [check_level(once, Limits(ttft_p95_ms=limit))[0].state for limit in (100, 900)]
    assert states == ["broken", "undecided"]
