"""The requests that a deployment gets, and the tokens of them that pass through one step.

How long they take is `throughput`'s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from tpforge.plan.speed.speculation import NO_DRAFTS, Drafts


@dataclass(frozen=True)
class Load:
    """Requests of `input_tokens` that are answered with `output_tokens` each; as many at once as
    `concurrency`.

    None: more than can run. `num_requests` of a test that ends, where that matters; None: it goes on.
    `requests_per_second`: how fast they come, instead of how many are there at once. `prefix_hit`: the share
    of a prompt whose keys and values are in the cache already. `drafts`: what is guessed ahead of a step.
    """

    input_tokens: int
    output_tokens: int
    concurrency: int | None = None
    num_requests: int | None = None
    requests_per_second: float | None = None
    prefix_hit: float = 0.0
    drafts: Drafts = NO_DRAFTS

    @property
    def request_tokens(self) -> int:
        """Tokens of a whole request."""
        return self.input_tokens + self.output_tokens

    @cached_property
    def read_tokens(self) -> int:
        """Tokens of a prompt that must be read: without the prefix, and at least the last one."""
        return max(1, round(self.input_tokens * (1 - self.prefix_hit)))

    @property
    def is_modelled(self) -> bool:
        """Whether speed rests on what no published row was compared with."""
        return self.prefix_hit > 0 or self.drafts.num_tokens > 0


class Tokens(NamedTuple):
    """What passes through a step: of `batch` requests `queries` each, that see `context`, and prompts.

    `prompt`: tokens of `prompts` that are read, of which each sees `seen` others in the mean.
    """

    batch: float
    context: float
    prompt: float = 0.0
    seen: float = 0.0
    queries: int = 1
    prompts: float = math.inf

    def of_a_rank(self, groups: int) -> Tokens:
        """Those of one of so many ranks with requests of their own: a prompt is read by one of them."""
        if groups == 1:
            return self
        return self._with(self.batch / groups, self.prompt / min(groups, max(1.0, self.prompts)))

    def part(self, parts: int) -> Tokens:
        """One of so many equal parts of requests and prompts."""
        return self._with(self.batch / parts, self.prompt / parts)

    def _with(self, batch: float, prompt: float) -> Tokens:
        return Tokens(batch, self.context, prompt, self.seen, self.queries, self.prompts)

    @property
    def total(self) -> float:
        """All of them."""
        return self.batch * self.queries + self.prompt
