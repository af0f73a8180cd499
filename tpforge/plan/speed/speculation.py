"""Tokens that are drafted ahead of a step and checked in it: how many of them a step gives.

It knows no model and no GPU: what drafts cost is the step's matter (see `throughput`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Drafts:
    """`num_tokens` are drafted for each step; each is accepted with `acceptance`, if those before it were."""

    num_tokens: int
    acceptance: float

    @cached_property
    def tokens_per_step(self) -> float:
        """The mean of tokens that a request gets in a step: those accepted, and the model's own one.

        Source: Leviathan, Kalman, Matias, "Fast Inference from Transformers via Speculative Decoding"
        (2023), equation 1, which takes acceptances as independent of each other.
        """
        return sum(self.acceptance**count for count in range(self.num_tokens + 1))


NO_DRAFTS = Drafts(0, 0.0)
"""A step gives one token."""
