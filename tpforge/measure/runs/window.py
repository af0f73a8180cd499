"""How much of each request lies in the window of its repeat: what throughput counts and divides by.

It knows nothing of latencies; `metrics` makes rates of it.

A window has edges, and requests cross them. In a closed loop every user always waits for one request, so a
request counts by the share of its time within the window: a server of constant speed then shows that speed,
wherever the edges fall. An open loop may queue, and most of a queued request's time nothing is made for it:
there the tokens that arrive within the window count, and requests whose last one does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from tpforge.measure.runs.run import Repeat
from tpforge.measure.runs.samples import Sample

_ROUNDING_S = 1e-6
"""Samples hold rounded seconds; the last token of a window that ends with it belongs to it."""

Part = Literal["requests", "input", "output"]


def part_in_window(sample: Sample, repeat: Repeat, part: Part) -> float:
    """How much of a request, of its prompt or of its answer the window has: 0 is nothing of it, 1 is all."""
    return _PARTS[repeat.counted_by, part](sample, repeat)


def counts_tokens(sample: Sample) -> bool:
    """Whether the tokens of a request count: of a whole answer, or of one that only we broke off."""
    return sample.is_complete or sample.error_kind == "cancelled"


def overlaps(sample: Sample, repeat: Repeat) -> bool:
    """Whether any time of the request lies in the window."""
    end = _end(sample)
    return end is not None and end >= repeat.warmup_s and sample.scheduled_s <= repeat.end_s


def _share_of_time(sample: Sample, repeat: Repeat) -> float:
    end = _end(sample)
    if end is None:
        return 0.0
    begin = sample.scheduled_s
    if end <= begin:
        return float(_is_inside(end, repeat))
    inside = min(end, repeat.end_s) - max(begin, repeat.warmup_s)
    return min(1.0, max(0.0, inside / (end - begin)))


def _by_last_token(sample: Sample, repeat: Repeat) -> float:
    return float(sample.last_s is not None and _is_inside(sample.last_s, repeat))


def _by_first_token(sample: Sample, repeat: Repeat) -> float:
    """A prompt has been read when the first token of its answer is there."""
    return float(sample.first_token_s is not None and _is_inside(sample.first_token_s, repeat))


def _by_arrivals(sample: Sample, repeat: Repeat) -> float:
    times, held = sample.token_times_s, sample.tokens_per_response
    if not times:
        return 0.0
    tokens: tuple[int, ...] = held if len(held) == len(times) and any(held) else (1,) * len(times)
    inside = sum(count for at, count in zip(times, tokens, strict=True) if _is_inside(at, repeat))
    return inside / sum(tokens)


_PARTS: dict[tuple[str, Part], Callable[[Sample, Repeat], float]] = {
    ("share", "requests"): _share_of_time,
    ("share", "input"): _share_of_time,
    ("share", "output"): _share_of_time,
    ("arrival", "requests"): _by_last_token,
    ("arrival", "input"): _by_first_token,
    ("arrival", "output"): _by_arrivals,
}


def _is_inside(at: float, repeat: Repeat) -> bool:
    return repeat.warmup_s + _ROUNDING_S < at and at <= repeat.end_s + _ROUNDING_S


def _end(sample: Sample) -> float | None:
    return sample.ended_s if sample.ended_s is not None else sample.last_s
