"""Limits that a system has to keep: of each level kept, broken, undecided or not measured.

It compares no runs; `gates` has the limits on how much worse a run may be than another.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tpforge.measure.comparison.level_rows import measured
from tpforge.measure.comparison.rows import Measured
from tpforge.measure.runs.run import Level, Run
from tpforge.measure.runs.samples import Statistic
from tpforge.records import Record

LimitState = Literal["kept", "broken", "undecided", "not measured"]


class Limits(Record):
    """What a system has to keep; None is no limit. Latencies in ms, throughput in output tokens a second."""

    ttft_p95_ms: float | None = None
    itl_p95_ms: float | None = None
    request_latency_p95_ms: float | None = None
    min_tokens_per_second: float | None = None
    max_error_percent: float | None = None
    max_gpu_memory_gib: float | None = None


@dataclass(frozen=True)
class LimitResult:
    """A limit at a level: whether it is kept, and by what one can tell."""

    level: str
    limit: str
    state: LimitState
    evidence: str


_METRICS: tuple[tuple[str, str, Statistic, str, str], ...] = (
    ("ttft_p95_ms", "time_to_first_token", "p95", "TTFT p95 <= {:g} ms", "ms"),
    ("itl_p95_ms", "inter_token_latency", "p95", "ITL p95 <= {:g} ms", "ms"),
    ("request_latency_p95_ms", "request_latency", "p95", "request latency p95 <= {:g} ms", "ms"),
    ("max_error_percent", "request_error_rate", "avg", "failed requests <= {:g} %", "%"),
    ("min_tokens_per_second", "output_token_throughput", "avg", "throughput >= {:g} tokens/s", "tokens/s"),
)


def check_level(level: Level, limits: Limits) -> tuple[LimitResult, ...]:
    """Every limit that is set, at a level: judged by the whole interval of what was measured."""
    found = []
    for field, metric, statistic, text, unit in _METRICS:
        limit = getattr(limits, field)
        if limit is not None:
            side = _measured(level, metric, statistic)
            at_least = field.startswith("min")
            state, evidence = _judge(side, limit, unit=unit, at_least=at_least)
            found.append(LimitResult(level.name, text.format(limit), state, evidence))
    if limits.max_gpu_memory_gib is not None:
        found += _memory(level, limits.max_gpu_memory_gib)
    return tuple(found)


def levels_within(run: Run, limits: Limits) -> tuple[str, ...]:
    """The names of the levels at which every limit was measured and is kept."""
    return tuple(
        level.name
        for level in in_order(run)
        if all(result.state == "kept" for result in check_level(level, limits))
    )


def in_order(run: Run) -> list[Level]:
    """The levels from the least load to the most, in whatever order they were measured."""
    return sorted(run.levels, key=lambda level: level.concurrency or level.rate_per_s or 0)


def _measured(level: Level, metric: str, statistic: Statistic) -> Measured | None:
    """A metric of a level; a latency with failed requests as infinite, where any failed."""
    summary = level.metrics.get(f"adj_{metric}") or level.metrics.get(metric)
    return measured(summary, statistic) if summary else None


def _judge(side: Measured | None, limit: float, *, unit: str, at_least: bool) -> tuple[LimitState, str]:
    if side is None:
        return "not measured", "no request, or too few, tell it"
    if math.isinf(side.value):
        return "broken", "infinite, since too many requests failed"
    sign = -1 if at_least else 1
    value = f"{side.value:.4g} {unit}"
    if side.low is None or side.high is None:
        is_broken = sign * side.value > sign * limit
        return ("broken" if is_broken else "undecided"), f"{value}, of a single repeat"
    evidence = f"{value} [{side.low:.4g}, {side.high:.4g}]"
    best, worst = (side.high, side.low) if at_least else (side.low, side.high)
    if sign * worst <= sign * limit:
        return "kept", evidence
    return ("broken" if sign * best > sign * limit else "undecided"), evidence


def _memory(level: Level, most: float) -> Iterator[LimitResult]:
    name = "memory of GPU {} <= " + f"{most:g} GiB"
    gpus = [gpu for gpu in level.telemetry.gpus if "memory_used" in gpu.series]
    for gpu in gpus:
        used = gpu.series["memory_used"].max / 2**30
        state: LimitState = "kept" if used <= most else "broken"
        yield LimitResult(level.name, name.format(gpu.index), state, f"{used:.4g} GiB")
    if not gpus:
        why = level.telemetry.unavailable.get("gpu", "no GPU was read")
        yield LimitResult(level.name, f"memory of each GPU <= {most:g} GiB", "not measured", why)
