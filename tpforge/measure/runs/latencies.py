"""What one request shows of itself: its latencies and lengths, named and defined as AIPerf does.

It summarizes nothing; `metrics` does. What each means stands in docs/benchmarking.md.

A request's start is when it was scheduled: in a closed loop that is when it was sent, as AIPerf counts; in
an open loop a request that had to wait for this client or its connection is charged the wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

from tpforge.measure.runs.run import Slo
from tpforge.measure.runs.samples import Sample

Measure = Callable[[Sample], Iterable[float]]


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

ADJUSTED = ("time_to_first_token", "request_latency", "inter_token_latency")
"""What is also summarized as ``adj_...``, a failed request being infinite; the three are AIPerf's."""


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


def _known(count: int | None) -> list[float]:
    return [] if count is None else [float(count)]
