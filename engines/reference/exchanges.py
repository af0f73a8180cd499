"""What ranks exchange: a rank's forward pass yields one of these and is sent the result.

It moves nothing; `lockstep` and `worker` do.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class AllReduce:
    """Sum the tensors of the stage's ranks; each is sent the sum."""

    tensor: Tensor


@dataclass(frozen=True)
class AllGather:
    """Join the tensors of the stage's ranks on the last dim, in rank order."""

    tensor: Tensor


@dataclass(frozen=True)
class Receive:
    """Take the hidden states [tokens, hidden] of the same tp rank of the stage before."""

    num_tokens: int


@dataclass(frozen=True)
class Send:
    """Hand the hidden states to the same tp rank of the stage after."""

    tensor: Tensor


Exchange = AllReduce | AllGather | Receive | Send
Step = Generator[Exchange, Tensor, Tensor]
Forward = Generator[Exchange, Tensor, Tensor | None]
