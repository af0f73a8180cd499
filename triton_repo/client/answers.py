"""What a client is told: a model's tensors and state, a piece of an answer, a whole answer.

It asks nothing; `client` does.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TensorMetadata:
    """A tensor as the server describes it; `shape` includes the batch dimension when there is one."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True)
class ModelMetadata:
    """A model's tensors as the server describes them."""

    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


@dataclass(frozen=True)
class ModelState:
    """A model of the server's repository; `reason` says why it is not READY."""

    name: str
    state: str
    reason: str


@dataclass(frozen=True)
class Chunk:
    """A piece of an answer and the seconds from the request to it."""

    text: str
    seconds: float
    final: bool


@dataclass(frozen=True)
class Answer:
    """All of an answer; `chunks` are the responses in their order, an empty last one included."""

    text: str
    chunks: tuple[Chunk, ...]

    @property
    def num_final(self) -> int:
        """How many responses carried the final flag; one, from a sound server."""
        return sum(chunk.final for chunk in self.chunks)
