"""Whether a level was a steady state, and whether its window was long enough: what someone should know of it.

It changes no number; `metrics` has those. What is said here is said of one level, all repeats together.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median

from tpforge.measure.runs.latencies import request_latency, time_to_first_token
from tpforge.measure.runs.run import Repeat
from tpforge.measure.runs.samples import Sample

LONG_SHARE = 0.1
"""A request that takes more of the window than this leaves few that begin and end in it."""

KEPT_UP = 0.9
"""A server that answers fewer of the arrivals of its window does not keep up, or had no time to begin to."""

CHANGE = 1.25
"""A median that differs by this factor between the halves of a window, or between first and later askings."""

_CERTAIN = 4.0
"""In standard deviations: requests of one batch are alike, so that three would be said too often."""
_FEW = 8


def level_notes(
    samples: Iterable[Sample], repeats: Sequence[Repeat], *, asked_s: float | None
) -> tuple[str, ...]:
    """What is not as in a steady state, a sentence each; nothing where all is.

    `asked_s` is how long the window was to be, None where a number of requests ends it.
    """
    measured = [sample for sample in samples if sample.phase == "measured"]
    found = (
        _long_requests(measured, asked_s),
        _too_many_arrivals(measured, repeats),
        _drift(measured, repeats),
        _asked_again(measured),
    )
    return tuple(note for note in found if note)


def _long_requests(measured: Sequence[Sample], window_s: float | None) -> str | None:
    taken = [value / 1e3 for sample in measured if sample.is_complete for value in request_latency(sample)]
    if not taken or not window_s or fmean(taken) <= LONG_SHARE * window_s:
        return None
    mean = fmean(taken)
    return (
        f"one request takes {mean:.3g} s, {100 * mean / window_s:.0f} % of the {window_s:g} s asked for: few "
        f"begin and end in them; --duration {math.ceil(mean / LONG_SHARE)} has ten of a user's requests"
    )


def _too_many_arrivals(measured: Sequence[Sample], repeats: Sequence[Repeat]) -> str | None:
    """An open loop whose requests were not over by the end of the window, as far as that is no chance."""
    due = answered = 0
    for number, repeat in enumerate(repeats):
        if repeat.counted_by != "arrival":
            return None
        own = [sample for sample in measured if sample.repeat == number]
        due += len(own)
        answered += sum(_is_over(sample, repeat) for sample in own)
    behind = due - answered
    if not due or answered >= KEPT_UP * due or behind <= 3 * math.sqrt(due):
        return None
    return (
        f"{answered} of {due} requests were over when their window was: this rate is above what the server "
        "can serve, or the window is short beside a request; latencies would grow with a longer one"
    )


def _is_over(sample: Sample, repeat: Repeat) -> bool:
    """Whether the request was answered within the window; one that failed later was not."""
    return sample.is_complete and sample.last_s is not None and sample.last_s <= repeat.end_s


def _drift(measured: Sequence[Sample], repeats: Sequence[Repeat]) -> str | None:
    """Requests of the later halves of the windows beside those of the earlier ones."""
    early: list[float] = []
    late: list[float] = []
    for sample in measured:
        repeat = repeats[sample.repeat]
        half = late if sample.scheduled_s > repeat.warmup_s + repeat.duration_s / 2 else early
        half += request_latency(sample) if sample.is_complete else [math.inf]
    change = _change(early, late)
    if change is None:
        return None
    return (
        f"the median request_latency is {_milliseconds(change[0])} in the first halves of the windows and "
        f"{_milliseconds(change[1])} in the second: not a steady state"
    )


def _asked_again(measured: Sequence[Sample]) -> str | None:
    """First askings of the prompts beside later ones, prompt by prompt: a cache of prompts shows there."""
    first: dict[str, float] = {}
    later: dict[str, list[float]] = defaultdict(list)
    for sample in sorted(measured, key=lambda one: (one.repeat, one.scheduled_s)):
        for value in time_to_first_token(sample) if sample.is_complete else []:
            if sample.prompt_id in first:
                later[sample.prompt_id].append(value)
            else:
                first[sample.prompt_id] = value
    pairs = [(first[name], median(values)) for name, values in later.items()]
    # A sign test: of equal speeds, the later one is less in half of the prompts.
    less = sum(after < before for before, after in pairs)
    if len(pairs) < _FEW or less - len(pairs) / 2 < 2 * math.sqrt(len(pairs)) / 2:
        return None
    before, after = median(a for a, _ in pairs), median(b for _, b in pairs)
    if before < CHANGE * after:
        return None
    return (
        f"the median TTFT is {before:.4g} ms where a prompt was asked for the first time and {after:.4g} ms "
        "later: the server keeps prompts; --isl asks new ones each time"
    )


def _change(early: Sequence[float], late: Sequence[float]) -> tuple[float, float] | None:
    """The medians, where they differ by more than CHANGE and the ranks say that it is no chance."""
    if min(len(early), len(late)) < _FEW:
        return None
    before, after = median(early), median(late)
    smaller, larger = sorted((before, after))
    if before == after or larger < CHANGE * smaller or abs(_rank_sum(early, late)) < _CERTAIN:
        return None
    return before, after


def _milliseconds(value: float) -> str:
    """``12.5 ms``; a median of failures is none."""
    return "that of no answer at all" if math.isinf(value) else f"{value:.4g} ms"


def _rank_sum(first: Sequence[float], second: Sequence[float]) -> float:
    """Mann and Whitney's U of `second`, in standard deviations of what equal ones would give."""
    ordered = sorted([(value, 0) for value in first] + [(value, 1) for value in second])
    counts: Counter[float] = Counter(value for value, _ in ordered)
    ranks: Mapping[float, float] = _ranks(counts)
    n, m = len(first), len(second)
    u = sum(ranks[value] for value in second) - m * (m + 1) / 2
    whole = n + m
    ties = sum(count**3 - count for count in counts.values())
    variance = n * m / 12 * (whole + 1 - ties / (whole * (whole - 1)))
    return (u - n * m / 2) / math.sqrt(variance) if variance > 0 else 0.0


def _ranks(counts: Counter[float]) -> dict[float, float]:
    """The mean rank of each value."""
    ranks, below = {}, 0
    for value in sorted(counts):
        ranks[value] = below + (counts[value] + 1) / 2
        below += counts[value]
    return ranks
