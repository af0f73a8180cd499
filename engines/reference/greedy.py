"""Greedy tokens of one prompt on an executor that nobody else uses.

Many requests at once are the scheduler's.
"""

from __future__ import annotations

from torch import Tensor

from .batches import Decode, Prefill
from .executor import Executor


def greedy(executor: Executor, prompt: list[int], num_tokens: int) -> list[int]:
    """The `num_tokens` most probable next tokens of one prompt, without a scheduler."""
    tokens: list[int] = []
    logits = executor.forward(Prefill(slot=0, start=0, tokens=tuple(prompt)))
    while True:
        token = _best(logits)
        tokens.append(token)
        if len(tokens) == num_tokens:
            return tokens
        logits = executor.forward(Decode(tokens=(token,), positions=(len(prompt) + len(tokens) - 1,)))


def _best(logits: Tensor | None) -> int:
    assert logits is not None
    return int(logits[-1].argmax())
