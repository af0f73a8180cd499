"""One request while it runs: stamps and raw bytes, and nothing that takes time; what it said is read later.

`Target` is what a protocol must offer. Neither knows of schedules or of metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from tpforge.measure.runs.prompts import Prompt
from tpforge.measure.runs.samples import ErrorKind, Phase

TokenSource = Literal["tokenizer", "server", "responses"]


@dataclass(frozen=True)
class Failure:
    """Why a request has no whole answer."""

    kind: ErrorKind
    message: str


@dataclass(eq=False, slots=True)
class Exchange:
    """What was seen of one request; all stamps are of the event loop's clock.

    `arrivals[i]` is when `pieces[i]` came off the stream, before anything else was done with it.
    """

    index: int
    phase: Phase
    prompt: Prompt
    scheduled: float
    sent: float | None = None
    ended: float | None = None
    arrivals: list[float] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    failure: Failure | None = None

    @property
    def num_before_tokens(self) -> int:
        """How many pieces came before the first that can hold a token: an HTTP head alone is none."""
        first = self.pieces[0] if self.pieces else b""
        return int(first.startswith(b"HTTP/") and b"data:" not in first)


@dataclass(frozen=True)
class Piece:
    """A response as it was read: its text, and its tokens, or their number, where the protocol has them."""

    at: float
    text: str
    token_ids: tuple[int, ...] | None = None
    num_tokens: int | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it carried neither text nor tokens."""
        return not self.text and not self.token_ids and not self.num_tokens


@dataclass(frozen=True)
class Reading:
    """The whole answer of an exchange; counts and reason are the server's word, None where it says nothing.

    `failure` is what the responses themselves tell: an error, an answer without its end. `hidden_tokens` were
    made before the first response and are in none: thoughts that the server keeps to itself.
    """

    pieces: tuple[Piece, ...]
    text: str
    failure: Failure | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    hidden_tokens: int = 0
    finish_reason: str | None = None


class Target(Protocol):
    """A server under load, by one protocol."""

    async def open(self) -> None:
        """Connect, as far as that is possible before the first request; called in the running loop."""

    async def close(self) -> None:
        """Drop the connection; requests in flight end."""

    def prepare(self, prompts: Sequence[Prompt]) -> None:
        """Encode the requests, so that nothing is left to do when they are due.

        Raises:
            TpforgeError: a prompt cannot be asked over this protocol.
        """

    async def run(self, exchange: Exchange) -> None:
        """Make the request and stamp what comes; fills `exchange` and raises nothing but a cancellation."""

    def read(self, exchange: Exchange) -> Reading:
        """What the raw bytes of a request that is over say."""
