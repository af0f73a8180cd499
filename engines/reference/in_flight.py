"""A request while the scheduler has it: what is submitted, how far it is, and what it is told.

When it runs, and beside which others, is the scheduler's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .config import Limits
from .sampling import RequestError, Sampler, Sampling


@dataclass(frozen=True)
class Event:
    """New tokens of a request; the last event of a request is `finished`.

    `scheduled_ns` is when the first of its prompt was computed, by the monotonic clock; 0 before that.
    """

    token_ids: tuple[int, ...] = ()
    log_probs: tuple[float, ...] = ()
    finished: bool = False
    finish_reason: str | None = None
    error: str | None = None
    scheduled_ns: int = 0


@dataclass(frozen=True)
class Counts:
    """Requests being decoded, requests waiting for a slot, and slots."""

    active: int
    waiting: int
    max: int

    @property
    def free(self) -> int:
        """Slots that the next waiting requests get at once."""
        return self.max - self.active


@dataclass(eq=False)
class Request:
    """A submitted request; its slot and progress belong to the scheduler's thread."""

    input_ids: list[int]
    sampler: Sampler
    on_event: Callable[[Event], None]
    cancelled: bool = False
    ended: bool = False
    num_prefilled: int = 0
    scheduled_ns: int = 0
    next_token: int = field(default=-1)

    def tell(self, event: Event) -> None:
        """Pass an event on; none after the last one."""
        if not self.ended:
            self.ended = event.finished
            self.on_event(event)

    @property
    def position(self) -> int:
        """Where the next token to be fed stands in the sequence."""
        return len(self.input_ids) + len(self.sampler.output) - 1


def refuse_input(input_ids: list[int], sampling: Sampling, *, limits: Limits, vocab_size: int) -> None:
    """Raise RequestError for a prompt that the engine cannot take, by the name of the input that is wrong."""
    count = len(input_ids)
    if not count:
        raise RequestError("input_ids", "is empty, expected at least one token")
    if count > limits.max_input_len:
        raise RequestError("input_ids", f"has {count} tokens, more than max_input_len {limits.max_input_len}")
    if count + sampling.max_tokens > limits.max_seq_len:
        raise RequestError(
            "request_output_len",
            f"{count} prompt tokens + {sampling.max_tokens} output tokens are more than "
            f"max_seq_len {limits.max_seq_len}",
        )
    strays = sorted({token for token in input_ids if not 0 <= token < vocab_size})
    if strays:
        raise RequestError("input_ids", f"token ids {strays[:5]} are outside the vocabulary of {vocab_size}")
