"""When requests are made: by so many users that each wait for an answer, or at times that nobody waits for.

Times and counts alone; `runner` makes the requests.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, count, takewhile
from typing import Literal

from tpforge.errors import InputRefused, UsageError
from tpforge.printable import is_text

_PROBLEMS_SHOWN = 20
_LATEST_MS = 1e15
"""Beyond the year 30000: what is later counts something else."""
_MOST_TOKENS = 2**31
MOST = 100_000
"""Users, or requests a second: one client has fewer ports than that, and each request is an object of it."""


@dataclass(frozen=True)
class Closed:
    """So many users; each asks again as soon as it has its answer. A slow server is asked less often."""

    concurrency: int

    @property
    def name(self) -> str:
        """``concurrency 4``."""
        return f"concurrency {self.concurrency}"


@dataclass(frozen=True)
class Open:
    """So many requests a second on average, whatever the server does."""

    rate_per_s: float
    arrival: Literal["poisson", "constant"] = "poisson"

    @property
    def name(self) -> str:
        """``rate 0.5/s``."""
        return f"rate {self.rate_per_s:g}/s"


@dataclass(frozen=True)
class TraceRow:
    """A request of a trace: seconds from its first one, and what is known of it."""

    at_s: float
    input_tokens: int | None = None
    output_tokens: int | None = None
    text: str | None = None


@dataclass(frozen=True)
class Trace:
    """Requests at recorded times, whatever the server does."""

    file: str
    rows: tuple[TraceRow, ...]

    @property
    def name(self) -> str:
        """``trace FILE``."""
        return f"trace {self.file}"


Load = Closed | Open | Trace


def arrivals(load: Open | Trace, *, until_s: float, seed: int) -> Iterator[float]:
    """The times, in seconds from the start, at which requests are due before `until_s`; may be without end.

    A Poisson process has independent, exponentially distributed gaps of mean 1 / rate; the same seed gives
    the same times. Constant gaps start with a whole one. A trace is as recorded.
    """
    if isinstance(load, Trace):
        times: Iterable[float] = (row.at_s for row in load.rows)
    elif load.arrival == "poisson":
        rng = random.Random(seed)
        times = accumulate(rng.expovariate(load.rate_per_s) for _ in count())
    else:
        times = (number / load.rate_per_s for number in count(1))
    return takewhile(lambda at_s: at_s < until_s, times)


def loads(
    *,
    concurrency: Sequence[int] = (),
    rates: Sequence[float] = (),
    constant: bool = False,
    trace: Trace | None = None,
) -> tuple[Load, ...]:
    """The levels of a run, one kind of load only; a single user when none is given.

    Raises:
        UsageError: more than one kind, a level twice, or a level that asks for nothing or too much.
    """
    if sum(map(bool, (concurrency, rates, trace))) > 1:
        raise UsageError("--concurrency, --rate and --trace exclude each other; give one of them")
    if trace is not None:
        return (trace,)
    numbers: Sequence[float] = rates or concurrency or (1,)
    option = "--rate" if rates else "--concurrency"
    if any(number <= 0 for number in numbers) or len(set(numbers)) < len(numbers):
        raise UsageError(f"{option}: every level must be above zero and there once, found {list(numbers)}")
    if max(numbers) > MOST:
        raise UsageError(f"{option} {max(numbers):g}: at most {MOST} can be asked by one client")
    if rates:
        return tuple(Open(rate, "constant" if constant else "poisson") for rate in rates)
    return tuple(Closed(int(number)) for number in numbers)


def parse_trace(text: str, *, file: str) -> Trace:
    """A trace from JSONL: ``timestamp`` (milliseconds), ``input_length``, ``output_length``, ``text_input``.

    Only `timestamp` is required; its zero is moved to the first request. Other keys are ignored.

    Raises:
        InputRefused: a line has no such form, or the times run backwards; all are listed.
    Source of the keys: AIPerf 0.13, its mooncake_trace data set
    """
    rows: list[TraceRow] = []
    problems = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = _row(json.loads(line))
        except (ValueError, RecursionError) as error:
            problems.append(f"line {number}: {error}")
            continue
        if rows and row.at_s < rows[-1].at_s:
            problems.append(f"line {number}: its timestamp is before that of the line above")
        rows.append(row)
    if problems:
        count_of = "" if len(problems) <= _PROBLEMS_SHOWN else f"; {len(problems)} lines are wrong, the first"
        raise InputRefused.listing(
            f"{file}: not a trace, one object with `timestamp` (ms) a line{count_of}:",
            problems[:_PROBLEMS_SHOWN],
        )
    if not rows:
        raise InputRefused(f"{file}: holds no request")
    start = rows[0].at_s
    shifted = (TraceRow(row.at_s - start, row.input_tokens, row.output_tokens, row.text) for row in rows)
    return Trace(file, tuple(shifted))


def _row(value: object) -> TraceRow:
    if not isinstance(value, dict):
        raise ValueError("holds no object")
    timestamp, text = value.get("timestamp"), value.get("text_input")
    if timestamp is None:
        raise ValueError(f"has no timestamp, but {', '.join(sorted(value)[:8]) or 'nothing'}")
    if (
        isinstance(timestamp, bool)
        or not isinstance(timestamp, int | float)
        or not 0 <= timestamp < _LATEST_MS
    ):
        raise ValueError(f"timestamp {timestamp!r:.40} is not a number of milliseconds")
    if text is not None and not (isinstance(text, str) and is_text(text)):
        raise ValueError("text_input is not text")
    return TraceRow(timestamp / 1e3, _length(value, "input_length"), _length(value, "output_length"), text)


def _length(value: dict[str, object], key: str) -> int | None:
    found = value.get(key)
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int) or not 1 <= found < _MOST_TOKENS:
        raise ValueError(f"{key} {found!r:.40} is not a number of tokens")
    return found
