"""Metrics of samples whose values are known by construction."""

from __future__ import annotations

import math

import numpy
import pytest
from scipy import stats

from tests.support.measured import REPEATS, SAMPLES, WORKLOAD, sample
from tpforge.measure.runs.latencies import (
    inter_chunk_latency,
    inter_token_latency,
    is_good,
    request_latency,
    time_to_first_token,
    time_to_second_token,
)
from tpforge.measure.runs.metrics import (
    HIGHER_IS_BETTER,
    LOWER_IS_BETTER,
    count_errors,
    is_told,
    nearest_percentiles,
    summarize,
)
from tpforge.measure.runs.run import Repeat, Slo
from tpforge.measure.runs.samples import MetricSummary, Sample


def one_repeat(duration_s: float = 2.0) -> list[Repeat]:
    return [
        Repeat(started="2026-01-01T00:00:00+00:00", duration_s=duration_s, num_requests=1, num_completed=1)
    ]


def test_latencies_of_a_request_are_those_of_its_stamps() -> None:
    request = sample(start=3.0, ttft=0.25, gaps=(0.01, 0.05, 0.03))
    assert time_to_first_token(request) == pytest.approx([250])
    assert time_to_second_token(request) == pytest.approx([10])
    assert request_latency(request) == pytest.approx([340])
    assert inter_chunk_latency(request) == pytest.approx([10, 50, 30])
    assert inter_token_latency(request) == pytest.approx([30])


def test_tokens_of_the_first_response_are_not_divided_by() -> None:
    request = sample(gaps=(0.04, 0.04)).model_copy(
        update={"output_tokens": 12, "tokens_per_response": (4, 4, 4)}
    )
    assert inter_token_latency(request) == pytest.approx([80 / 8])


def test_answer_in_one_piece_has_no_inter_token_latency() -> None:
    whole = sample(gaps=()).model_copy(update={"output_tokens": 12})
    assert inter_token_latency(whole) == []
    assert time_to_second_token(whole) == []


def test_latencies_count_from_the_schedule_not_from_the_sending() -> None:
    late = sample(start=1.0, ttft=0.1).model_copy(update={"scheduled_s": 0.4})
    assert time_to_first_token(late) == pytest.approx([700])
    found = summarize([late], one_repeat())
    assert found["send_lag"].avg == pytest.approx(600)


def test_throughput_is_tokens_and_requests_over_the_duration() -> None:
    found = summarize(SAMPLES, REPEATS)
    # Four requests of four tokens each in two seconds, eight tokens of prompt each.
    assert found["output_token_throughput"].avg == pytest.approx(8)
    assert found["total_token_throughput"].avg == pytest.approx(24)
    assert found["request_throughput"].avg == pytest.approx(2)
    assert found["request_count"].avg == 4
    assert found["output_token_throughput_per_user"].p50 == pytest.approx(50)
    assert (found["request_throughput"].unit, found["request_throughput"].p50) == ("requests/sec", None)


def test_interval_is_over_repeats_and_the_percentiles_over_all_requests() -> None:
    found = summarize(SAMPLES, REPEATS)["time_to_first_token"]
    half = stats.t.ppf(0.975, 2) * stats.sem(numpy.log([100, 110, 120]))
    low, high = 110 * numpy.exp([-half, half])
    assert found.repeats["p50"] == pytest.approx((100, 110, 120))
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx((low, high))
    assert (found.count, found.p50, found.min, found.max) == (
        12,
        pytest.approx(110),
        pytest.approx(100),
        pytest.approx(120),
    )


def test_one_repeat_has_no_interval() -> None:
    found = summarize([sample()], one_repeat())["time_to_first_token"]
    assert found.interval is None
    assert found.intervals == {}
    assert found.repeats["avg"] == pytest.approx((100,))


def test_failed_requests_count_as_errors_and_in_no_latency() -> None:
    samples = [sample(index=0), sample(index=1, ttft=9.0, error="broken"), sample(index=2, error="refused")]
    found = summarize(samples, one_repeat())
    assert found["time_to_first_token"].max == pytest.approx(100)
    assert found["request_error_rate"].avg == pytest.approx(100 * 2 / 3)
    assert found["error_request_count"].avg == 2
    assert found["request_throughput"].avg == pytest.approx(0.5)
    assert count_errors(samples) == {"broken": 1, "refused": 1}


def test_only_failures_have_rates_and_no_latencies() -> None:
    found = summarize([sample(error="timeout")], one_repeat())
    assert "time_to_first_token" not in found
    assert found["output_token_throughput"].avg == 0
    assert found["request_error_rate"].avg == 100


def test_warmup_is_left_out() -> None:
    warmup = sample(ttft=5.0).model_copy(update={"phase": "warmup", "error_kind": "refused"})
    found = summarize([warmup, sample()], one_repeat())
    assert found["time_to_first_token"].count == 1
    assert count_errors([warmup]) == {}


def test_goodput_counts_requests_that_keep_every_limit() -> None:
    samples = [
        sample(index=0, ttft=0.1, gaps=(0.02,)),
        sample(index=1, ttft=0.6, gaps=(0.02,)),
        sample(index=2, ttft=0.1, gaps=(0.05,)),
        sample(index=3, ttft=0.1, gaps=(0.02,), error="timeout"),
    ]
    found = summarize(samples, one_repeat(), slo=Slo(ttft_ms=500, itl_ms=40))
    assert found["goodput"].avg == pytest.approx(0.5)
    assert found["good_request_fraction"].avg == pytest.approx(0.25)
    assert "goodput" not in summarize(samples, one_repeat())


@pytest.mark.parametrize(
    ("slo", "expected"),
    [
        (Slo(), True),
        (Slo(ttft_ms=99), False),
        (Slo(ttft_ms=101, itl_ms=21), True),
        (Slo(itl_ms=19), False),
        (Slo(request_latency_ms=159), False),
        (Slo(request_latency_ms=161), True),
    ],
)
def test_each_limit_decides(slo: Slo, expected: bool) -> None:
    assert is_good(sample(ttft=0.1, gaps=(0.02, 0.02, 0.02)), slo) is expected


def test_answer_of_one_token_keeps_a_limit_on_the_time_between_tokens() -> None:
    assert is_good(sample(gaps=()), Slo(itl_ms=1))


def test_unknown_token_counts_leave_token_throughput_out() -> None:
    unknown = Sample.model_validate({**sample().model_dump(), "output_tokens": None})
    found = summarize([unknown, sample(index=1)], one_repeat())
    assert "output_token_throughput" not in found
    assert found["request_throughput"].avg == pytest.approx(1)


def test_no_metric_is_better_in_both_directions() -> None:
    assert not LOWER_IS_BETTER & HIGHER_IS_BETTER
    failed = sample(index=9, error="refused")
    known = set(summarize([*SAMPLES, failed], REPEATS, slo=WORKLOAD.slo))
    assert known >= LOWER_IS_BETTER | HIGHER_IS_BETTER


def test_failures_are_infinite_beside_the_latencies_of_the_others() -> None:
    samples = [sample(index=index, error="timeout" if index >= 94 else None) for index in range(100)]
    found = summarize(samples, one_repeat())
    adjusted, plain = found["adj_time_to_first_token"], found["time_to_first_token"]
    # numpy: percentile([100] * 94 + [inf] * 6, [50, 90, 95], method="nearest")
    assert (adjusted.p50, adjusted.p90, adjusted.p95) == (pytest.approx(100), pytest.approx(100), math.inf)
    assert (adjusted.count, plain.count, plain.p95) == (100, 94, None), "94 requests have no p95"
    assert MetricSummary.model_validate_json(adjusted.model_dump_json()) == adjusted
    assert "adj_time_to_first_token" not in summarize(samples[:94], one_repeat())


@pytest.mark.parametrize("values", [[1.0] * 7 + [math.inf] * 3, [3.0, 1.0, 2.0, math.inf] * 5, [5.0]])
def test_nearest_percentiles_are_numpys(values: list[float]) -> None:
    wanted = (1, 5, 10, 25, 50, 75, 90, 95, 99)
    found = nearest_percentiles(values, wanted)
    assert found == tuple(numpy.percentile(values, wanted, method="nearest"))


def test_a_request_counts_by_its_share_of_the_window() -> None:
    """Of 8 s each and 4 tokens: one begun in the warmup, one within, one in flight at the end."""
    window = Repeat(
        started="2026-01-01T00:00:00+00:00", warmup_s=4.0, duration_s=16.0, num_requests=2, num_completed=2
    )
    samples = [
        sample(start=start, ttft=2.0, gaps=(2.0, 2.0, 2.0), index=index).model_copy(update={"phase": phase})
        for index, (start, phase) in enumerate([(0.0, "warmup"), (8.0, "measured"), (16.0, "measured")])
    ]
    found = summarize(samples, [window])
    assert found["output_token_throughput"].avg == pytest.approx((2 + 4 + 2) / 16)
    assert found["request_throughput"].avg == pytest.approx(2 / 16)
    assert found["total_token_throughput"].avg == pytest.approx((2 + 4 + 2 + 4 + 8 + 4) / 16)
    assert (found["request_count"].avg, found["time_to_first_token"].count) == (2, 2)
    arriving = window.model_copy(update={"counted_by": "arrival"})
    queued = summarize(samples, [arriving])
    # Tokens at 2, 4, 6, 8 s after each start; the window is (4, 20].
    assert queued["output_token_throughput"].avg == pytest.approx((2 + 4 + 2) / 16)
    assert queued["request_throughput"].avg == pytest.approx(2 / 16)


def test_what_this_client_broke_off_gave_what_had_come() -> None:
    cancelled = sample(error="cancelled", gaps=(0.02,) * 9)
    found = summarize([cancelled, sample(index=1)], one_repeat())
    assert found["output_token_throughput"].avg == pytest.approx((10 + 4) / 2)
    assert found["request_throughput"].avg == pytest.approx(1 / 2)
    assert "adj_time_to_first_token" not in found


@pytest.mark.parametrize(
    ("percent", "needed"), [(50, 1), (75, 20), (90, 50), (10, 50), (95, 100), (99, 500), (1, 500)]
)
def test_a_tail_takes_five_requests_beyond_it(percent: float, needed: int) -> None:
    assert is_told(percent, needed)
    assert needed == 1 or not is_told(percent, needed - 1)


def test_shares_have_wilsons_interval_over_all_requests() -> None:
    samples = [
        sample(repeat=repeat, index=index, error="refused" if index < 2 * repeat else None)
        for repeat in range(2)
        for index in range(10)
    ]
    found = summarize(samples, one_repeat() * 2)["request_error_rate"]
    expected = stats.binomtest(2, 20).proportion_ci(0.95, method="wilson")
    assert (found.avg, found.repeats["avg"]) == (10, (0, 20))
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx(
        (100 * expected.low, 100 * expected.high)
    )


def test_no_interval_reaches_below_zero() -> None:
    fast = [sample(ttft=0.001, repeat=0), sample(ttft=0.1, repeat=1)]
    for metric in summarize(fast, one_repeat() * 2).values():
        assert all(interval.low >= 0 for interval in metric.intervals.values())
