"""From samples to metrics, named and defined as AIPerf does, with an interval over repeats.

It measures nothing and rounds nothing. What each metric means stands in docs/benchmarking.md.

A request's start is when it was scheduled: in a closed loop that is when it was sent, as AIPerf counts; in
an open loop a request that had to wait for this client or its connection is charged the wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from statistics import fmean
from typing import get_args

from tpforge.measure.run import Repeat, Slo
from tpforge.measure.samples import ErrorKind, Interval, MetricSummary, Sample, Statistic
from tpforge.measure.statistics import mean_interval, percentiles, sample_deviation

Measure = Callable[[Sample], Iterable[float]]

_PERCENTILES: tuple[Statistic, ...] = tuple(name for name in get_args(Statistic) if name[1:].isdigit())
_PERCENTS = tuple(float(name[1:]) for name in _PERCENTILES)
_REPEATED: tuple[Statistic, ...] = ("avg", "p50", "p90", "p95", "p99")


def time_to_first_token(sample: Sample) -> list[float]:
    """Milliseconds from the start to the first response that carried a token."""
    if sample.first_token_s is None:
        return []
    return [(sample.first_token_s - sample.scheduled_s) * 1e3]


def time_to_second_token(sample: Sample) -> list[float]:
    """Milliseconds between the first two responses that carried tokens."""
    times = sample.token_times_s
    return [(times[1] - times[0]) * 1e3] if len(times) > 1 else []


def request_latency(sample: Sample) -> list[float]:
    """Milliseconds from the start to the last response that carried a token."""
    return [] if sample.last_s is None else [(sample.last_s - sample.scheduled_s) * 1e3]


def inter_token_latency(sample: Sample) -> list[float]:
    """Milliseconds a token after the first response: (latency - TTFT) / (tokens - those of the first).

    This is also called time per output token (TPOT). An answer that came as one response has none.
    """
    if sample.first_token_s is None or sample.last_s is None or sample.output_tokens is None:
        return []
    first = sample.tokens_per_response[0] if sample.tokens_per_response else 1
    later = sample.output_tokens - first
    if later < 1 or len(sample.token_times_s) < 2:
        return []
    return [(sample.last_s - sample.first_token_s) * 1e3 / later]


def inter_chunk_latency(sample: Sample) -> list[float]:
    """Milliseconds between each two neighbouring responses: where a stall shows that an average hides."""
    times = sample.token_times_s
    return [(later - earlier) * 1e3 for earlier, later in pairwise(times)]


def output_tokens_per_second_of_a_user(sample: Sample) -> list[float]:
    """Tokens a second that one user sees after the first: 1 / inter-token latency."""
    return [1e3 / latency for latency in inter_token_latency(sample) if latency > 0]


def send_lag(sample: Sample) -> list[float]:
    """Milliseconds from when a request was due to when it was handed to the connection; not one of AIPerf."""
    return [] if sample.sent_s is None else [(sample.sent_s - sample.scheduled_s) * 1e3]


RECORD_METRICS: tuple[tuple[str, str, Measure], ...] = (
    ("time_to_first_token", "ms", time_to_first_token),
    ("time_to_second_token", "ms", time_to_second_token),
    ("request_latency", "ms", request_latency),
    ("inter_token_latency", "ms", inter_token_latency),
    ("inter_chunk_latency", "ms", inter_chunk_latency),
    ("output_token_throughput_per_user", "tokens/sec/user", output_tokens_per_second_of_a_user),
    ("output_sequence_length", "tokens", lambda sample: _known(sample.output_tokens)),
    ("input_sequence_length", "tokens", lambda sample: _known(sample.input_tokens)),
    ("send_lag", "ms", send_lag),
)
"""Name, unit, values of one request: none where it is not defined, several for inter_chunk_latency."""

LOWER_IS_BETTER = frozenset(
    {
        "time_to_first_token", "time_to_second_token", "request_latency", "inter_token_latency",
        "inter_chunk_latency", "send_lag", "request_error_rate", "error_request_count",
    }
)  # fmt: skip
HIGHER_IS_BETTER = frozenset(
    {
        "output_token_throughput_per_user", "output_token_throughput", "total_token_throughput",
        "request_throughput", "goodput", "good_request_fraction",
    }
)  # fmt: skip
"""Metrics in neither set describe the load, not how good the server is."""


def is_good(sample: Sample, slo: Slo) -> bool:
    """Whether a request kept every limit; a failed one never did, one without an ITL keeps that limit."""
    if not sample.is_complete:
        return False
    limits = (
        (slo.ttft_ms, time_to_first_token(sample), False),
        (slo.itl_ms, inter_token_latency(sample), True),
        (slo.request_latency_ms, request_latency(sample), False),
    )
    return all(
        limit is None or (values[0] <= limit if values else absent_is_good)
        for limit, values, absent_is_good in limits
    )


def count_errors(samples: Iterable[Sample]) -> dict[ErrorKind, int]:
    """The failed measured requests by kind; kinds that did not happen are left out."""
    counts: dict[ErrorKind, int] = {}
    for sample in samples:
        if sample.phase == "measured" and sample.error_kind is not None:
            counts[sample.error_kind] = counts.get(sample.error_kind, 0) + 1
    return dict(sorted(counts.items()))


def summarize(
    samples: Iterable[Sample], repeats: Sequence[Repeat], *, slo: Slo | None = None
) -> dict[str, MetricSummary]:
    """Every metric of one level that is defined for its samples, by name.

    `samples` are those of the level; warmup requests are left out. Repeat i has the duration of
    ``repeats[i]``. Latencies are of complete requests only; failures count in `request_error_rate`.
    """
    by_repeat: list[list[Sample]] = [[] for _ in repeats]
    for sample in samples:
        if sample.phase == "measured":
            by_repeat[sample.repeat].append(sample)
    summaries = [
        _record_summary(name, unit, [_values(part, measure) for part in by_repeat])
        for name, unit, measure in RECORD_METRICS
    ]
    rates = [_rates(part, repeat, slo) for part, repeat in zip(by_repeat, repeats, strict=True) if part]
    for name, unit in _DERIVED:
        values = [rate[name] for rate in rates if name in rate]
        summaries.append(_derived_summary(name, unit, values))
    return {summary.name: summary for summary in summaries if summary is not None}


_DERIVED = (
    ("output_token_throughput", "tokens/sec"),
    ("total_token_throughput", "tokens/sec"),
    ("request_throughput", "requests/sec"),
    ("goodput", "requests/sec"),
    ("good_request_fraction", "ratio"),
    ("request_count", "requests"),
    ("error_request_count", "requests"),
    ("request_error_rate", "%"),
    ("benchmark_duration", "sec"),
)


def _rates(samples: Sequence[Sample], repeat: Repeat, slo: Slo | None) -> dict[str, float]:
    """The derived metrics of one repeat; throughput counts complete requests, as AIPerf's does."""
    complete = [sample for sample in samples if sample.is_complete]
    failed = len(samples) - len(complete)
    rates: dict[str, float] = {
        "request_count": len(complete),
        "error_request_count": failed,
        "request_error_rate": 100 * failed / len(samples),
        "benchmark_duration": repeat.duration_s,
    }
    if slo is not None:
        num_good = sum(is_good(sample, slo) for sample in complete)
        rates["good_request_fraction"] = num_good / len(samples)
    if repeat.duration_s <= 0:
        return rates
    rates["request_throughput"] = len(complete) / repeat.duration_s
    if slo is not None:
        rates["goodput"] = num_good / repeat.duration_s
    outputs = [sample.output_tokens for sample in complete if sample.output_tokens is not None]
    inputs = [sample.input_tokens for sample in complete if sample.input_tokens is not None]
    if len(outputs) == len(complete):
        rates["output_token_throughput"] = sum(outputs) / repeat.duration_s
        if len(inputs) == len(complete):
            rates["total_token_throughput"] = (sum(inputs) + sum(outputs)) / repeat.duration_s
    return rates


def _record_summary(name: str, unit: str, values: Sequence[Sequence[float]]) -> MetricSummary | None:
    pooled = [value for part in values for value in part]
    if not pooled:
        return None
    each = [_statistics(part) for part in values if part]
    repeats = {name: tuple(statistic[name] for statistic in each) for name in _REPEATED}
    return MetricSummary(
        name=name,
        unit=unit,
        kind="record",
        **_statistics(pooled),
        min=min(pooled),
        max=max(pooled),
        std=sample_deviation(pooled),
        sum=sum(pooled),
        count=len(pooled),
        repeats=repeats,
        intervals=_intervals(repeats),
    )


def _derived_summary(name: str, unit: str, values: Sequence[float]) -> MetricSummary | None:
    if not values:
        return None
    repeats: dict[Statistic, tuple[float, ...]] = {"avg": tuple(values)}
    return MetricSummary(
        name=name,
        unit=unit,
        kind="derived",
        avg=fmean(values),
        repeats=repeats,
        intervals=_intervals(repeats),
    )


def _statistics(values: Sequence[float]) -> dict[Statistic, float]:
    found: dict[Statistic, float] = {"avg": fmean(values)}
    found.update(zip(_PERCENTILES, percentiles(values, _PERCENTS), strict=True))
    return found


def _intervals(repeats: dict[Statistic, tuple[float, ...]]) -> dict[Statistic, Interval]:
    intervals = {name: mean_interval(values) for name, values in repeats.items()}
    return {name: interval for name, interval in intervals.items() if interval is not None}


def _values(samples: Iterable[Sample], measure: Measure) -> list[float]:
    return [value for sample in samples if sample.is_complete for value in measure(sample)]


def _known(count: int | None) -> list[float]:
    return [] if count is None else [float(count)]
