"""Which prompt each request asks: whole passes over the prompts, each in an order of its own.

It knows no time; `runner` says when a request is made, and to which phase it belongs.

In the order of a file, how fast a server is would decide which prompts it is asked within a time, and a
faster one could look slower for it. A pass asks every prompt once, in an order that the seed gives; the last
pass of a repeat of so many requests takes the first prompts of the set, so that every such repeat asks the
same ones.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tpforge.measure.runs.prompts import Prompt
from tpforge.measure.runs.samples import Phase


@dataclass(frozen=True)
class InTurn:
    """The prompts as they are, warmup and measured requests after one another: traces, and new prompts."""

    prompts: Sequence[Prompt]

    @property
    def pass_size(self) -> int:
        """Any number of requests is whole."""
        return 1

    def streams(self, *, seed: int, num_requests: int | None) -> dict[Phase, Iterator[Prompt]]:
        """What is asked next, by phase; both are the same stream, so that none is asked twice."""
        stream = itertools.cycle(self.prompts)
        return {"warmup": stream, "measured": stream}


@dataclass(frozen=True)
class Passes:
    """Whole passes over the prompts, shuffled by the seed; the warmup has passes of its own."""

    prompts: Sequence[Prompt]

    @property
    def pass_size(self) -> int:
        """So many requests ask every prompt once."""
        return len(self.prompts)

    def streams(self, *, seed: int, num_requests: int | None) -> dict[Phase, Iterator[Prompt]]:
        """What is asked next, by phase; `num_requests` measured ones are to come, None: nobody knows."""
        return {
            "warmup": _passes(self.prompts, random.Random(f"warmup {seed}"), None),
            "measured": _passes(self.prompts, random.Random(f"measured {seed}"), num_requests),
        }


Order = InTurn | Passes


def _passes(prompts: Sequence[Prompt], rng: random.Random, num_requests: int | None) -> Iterator[Prompt]:
    left = float("inf") if num_requests is None else num_requests
    while True:
        # More than was asked for is never taken; then a whole pass follows like any other.
        size = len(prompts) if left <= 0 else min(left, len(prompts))
        yield from rng.sample(prompts[: int(size)], int(size))
        left -= size
