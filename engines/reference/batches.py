"""What the scheduler asks the ranks to compute: a chunk of one prompt, or one token for each request."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Logits(Enum):
    """Which positions of a prompt chunk need logits."""

    NONE = "none"
    LAST = "last"
    ALL = "all"


@dataclass(frozen=True)
class Prefill:
    """A chunk of one request's prompt: `tokens` at positions start, start + 1, ...

    `prompt_length` is that of the whole prompt, where the chunk is not its end: some rotary embeddings
    depend on it. With `places` the tokens stand at those positions instead, in rising order, with nothing
    between them, and the prompt is as long as the last one says: for proofs of positions that are far apart.
    """

    slot: int
    start: int
    tokens: tuple[int, ...]
    logits: Logits = Logits.LAST
    prompt_length: int | None = None
    places: tuple[int, ...] | None = None

    @property
    def stop(self) -> int:
        """One past the position of the last token."""
        return self.start + len(self.tokens)


@dataclass(frozen=True)
class Decode:
    """One token for each of the slots 0, 1, ..., at the given positions."""

    tokens: tuple[int, ...]
    positions: tuple[int, ...]


@dataclass(frozen=True)
class Move:
    """Copy the KV cache of one slot over another, so that the slots in use stay compact."""

    source: int
    target: int
    length: int


Batch = Prefill | Decode
