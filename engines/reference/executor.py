"""What the scheduler needs of whoever runs the ranks. See `lockstep` and `ranks` for the two that do."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from .batches import Batch, Move


class RankFailure(RuntimeError):
    """A rank died or failed; the executor must be opened again."""


class Executor(Protocol):
    """Runs batches over all ranks of an engine."""

    def forward(self, batch: Batch) -> Tensor | None:
        """Logits [positions asked for, vocab] in float32 on the CPU, or None when none were asked for.

        Raises:
            RankFailure: a rank died.
        """

    def move(self, move: Move) -> None:
        """Copy a slot of the KV cache on every rank."""

    def close(self) -> None:
        """End the ranks and free their memory."""
