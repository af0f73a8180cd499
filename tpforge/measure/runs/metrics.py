"""From samples to metrics, named and defined as AIPerf does, with an interval over repeats.

It measures nothing and rounds nothing. `latencies` says what one request shows, `rates` what a repeat does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import TypedDict, get_args

from tpforge.measure.intervals import positive_interval
from tpforge.measure.runs.latencies import ADJUSTED, RECORD_METRICS, Measure
from tpforge.measure.runs.rates import RATES, SHARES, RepeatRates
from tpforge.measure.runs.run import Repeat, Slo
from tpforge.measure.runs.samples import ErrorKind, Interval, MetricSummary, Sample, Statistic
from tpforge.measure.statistics import percentiles, proportion_interval, sample_deviation

_PERCENTILES: tuple[Statistic, ...] = tuple(name for name in get_args(Statistic) if name[1:].isdigit())
_PERCENTS = tuple(float(name[1:]) for name in _PERCENTILES)
_REPEATED: tuple[Statistic, ...] = ("avg", "p50", "p90", "p95", "p99")

NUM_FOR_TAIL = 5
"""How many requests must lie beyond a percentile: a p95 takes 100, of 14 it would be 9 % low on average."""


LOWER_IS_BETTER = frozenset(
    {
        "time_to_first_token", "time_to_second_token", "request_latency", "inter_token_latency",
        "inter_chunk_latency", "send_lag", "request_error_rate", "error_request_count",
        *(f"adj_{name}" for name in ADJUSTED),
    }
)  # fmt: skip
HIGHER_IS_BETTER = frozenset(
    {
        "output_token_throughput_per_user", "output_token_throughput", "total_token_throughput",
        "request_throughput", "goodput", "good_request_fraction",
    }
)  # fmt: skip
"""Metrics in neither set describe the load, not how good the server is."""


def count_errors(samples: Iterable[Sample]) -> dict[ErrorKind, int]:
    """The failed measured requests by kind; kinds that did not happen are left out."""
    counts: dict[ErrorKind, int] = {}
    for sample in samples:
        if sample.phase == "measured" and sample.error_kind is not None:
            counts[sample.error_kind] = counts.get(sample.error_kind, 0) + 1
    return dict(sorted(counts.items()))


def count_prompts(samples: Iterable[Sample]) -> dict[str, int]:
    """How often each prompt was asked by the measured requests, by its id."""
    counts: dict[str, int] = {}
    for sample in samples:
        if sample.phase == "measured":
            counts[sample.prompt_id] = counts.get(sample.prompt_id, 0) + 1
    return dict(sorted(counts.items()))


def summarize(
    samples: Iterable[Sample], repeats: Sequence[Repeat], *, slo: Slo | None = None
) -> dict[str, MetricSummary]:
    """Every metric of one level that is defined for its samples, by name.

    `samples` are those of the level, the warmup's too: what of them lies in the window counts for throughput.
    Latencies are of complete requests that began in the window; failures count in `request_error_rate`, and
    as infinite in the metrics ``adj_...``, which are there where something failed.
    """
    parts: list[list[Sample]] = [[] for _ in repeats]
    for sample in samples:
        parts[sample.repeat].append(sample)
    counted = [RepeatRates(part, repeat, slo) for part, repeat in zip(parts, repeats, strict=True)]
    measured = [one.measured for one in counted]
    summaries: list[MetricSummary | None] = []
    for name, unit, measure in RECORD_METRICS:
        values = [_values(part, measure) for part in measured]
        summaries.append(_record_summary(name, unit, values))
        if name in ADJUSTED:
            failed = [sum(map(_has_failed, part)) for part in measured]
            summaries.append(_adjusted_summary(f"adj_{name}", unit, values, failed))
    told = [one for one, part in zip(counted, measured, strict=True) if part]
    rates, shares = [one.rates() for one in told], [one.shares() for one in told]
    for name, unit in RATES:
        summaries.append(_rate_summary(name, unit, [rate[name] for rate in rates if name in rate]))
    for name, unit, scale in SHARES:
        counts = [share[name] for share in shares if name in share]
        summaries.append(_share_summary(name, unit, counts, scale=scale))
    return {summary.name: summary for summary in summaries if summary is not None}


def is_told(percent: float, count: int) -> bool:
    """Whether `count` requests are enough for a percentile: a tail needs some beyond it, the median none."""
    beyond = min(percent, 100 - percent)
    return beyond == 50 or count * beyond / 100 >= NUM_FOR_TAIL - 1e-9


def _record_summary(name: str, unit: str, values: Sequence[Sequence[float]]) -> MetricSummary | None:
    pooled = [value for part in values for value in part]
    if not pooled:
        return None
    whole = _statistics(pooled, of=len(pooled))
    each = [_statistics(part, of=len(pooled)) for part in values if part]
    return MetricSummary(
        name=name,
        unit=unit,
        kind="record",
        **whole,
        min=min(pooled),
        max=max(pooled),
        std=sample_deviation(pooled),
        sum=sum(pooled),
        count=len(pooled),
        **_over_repeats(whole, each),
    )


def _adjusted_summary(
    name: str, unit: str, values: Sequence[Sequence[float]], failed: Sequence[int]
) -> MetricSummary | None:
    """The percentiles with every failure as infinite; None where nothing failed."""
    parts = [[*part, *[math.inf] * count] for part, count in zip(values, failed, strict=True)]
    pooled = [value for part in parts for value in part]
    if not any(failed):
        return None
    whole = _nearest(pooled, of=len(pooled))
    each = [_nearest(part, of=len(pooled)) for part in parts if part]
    return MetricSummary(
        name=name,
        unit=unit,
        kind="record",
        avg=math.inf,
        **whole,
        min=min(pooled),
        max=math.inf,
        count=len(pooled),
        **_over_repeats(whole, each),
    )


def _rate_summary(name: str, unit: str, values: Sequence[float]) -> MetricSummary | None:
    if not values:
        return None
    mean = fmean(values)
    spread = _over_repeats({"avg": mean}, [{"avg": value} for value in values])
    return MetricSummary(name=name, unit=unit, kind="derived", avg=mean, **spread)


def _share_summary(
    name: str, unit: str, counts: Sequence[tuple[int, int]], *, scale: float
) -> MetricSummary | None:
    """The share of all repeats together, with Wilson's interval."""
    found, of = (sum(numbers) for numbers in zip(*counts, strict=True)) if counts else (0, 0)
    interval = proportion_interval(found, of)
    if interval is None:
        return None
    ends = {"mean": interval.mean * scale, "low": interval.low * scale, "high": interval.high * scale}
    return MetricSummary(
        name=name,
        unit=unit,
        kind="derived",
        avg=interval.mean * scale,
        repeats={"avg": tuple(scale * some / all_of for some, all_of in counts)},
        intervals={"avg": interval.model_copy(update=ends)},
    )


def _statistics(values: Sequence[float], *, of: int) -> dict[Statistic, float]:
    """The mean and every percentile that `of` requests tell."""
    found: dict[Statistic, float] = {"avg": fmean(values)}
    named = zip(_PERCENTILES, _PERCENTS, percentiles(values, _PERCENTS), strict=True)
    return found | {name: value for name, percent, value in named if is_told(percent, of)}


def nearest_percentiles(values: Sequence[float], percents: Sequence[float]) -> tuple[float, ...]:
    """Percentiles that are values themselves: between a number and infinity nothing can be interpolated.

    Source: AIPerf 0.13, derived_latency.py: numpy.percentile with method="nearest"
    """
    ordered = sorted(values)
    return tuple(ordered[round((len(ordered) - 1) * percent / 100)] for percent in percents)


def _nearest(values: Sequence[float], *, of: int) -> dict[Statistic, float]:
    named = zip(_PERCENTILES, _PERCENTS, nearest_percentiles(values, _PERCENTS), strict=True)
    return {name: value for name, percent, value in named if is_told(percent, of)}


class _OverRepeats(TypedDict):
    repeats: dict[Statistic, tuple[float, ...]]
    intervals: dict[Statistic, Interval]


def _over_repeats(whole: dict[Statistic, float], each: Sequence[dict[Statistic, float]]) -> _OverRepeats:
    """The statistics of every repeat, and where those of `whole` lie as they scatter."""
    repeats = {name: tuple(one[name] for one in each) for name in _REPEATED if name in whole}
    found = {name: positive_interval(whole[name], values) for name, values in repeats.items()}
    return {
        "repeats": repeats,
        "intervals": {name: interval for name, interval in found.items() if interval is not None},
    }


def _values(samples: Iterable[Sample], measure: Measure) -> list[float]:
    return [value for sample in samples if sample.is_complete for value in measure(sample)]


def _has_failed(sample: Sample) -> bool:
    """Whether the server gave no whole answer; a request that this client broke off says nothing of it."""
    return not sample.is_complete and sample.error_kind != "cancelled"
