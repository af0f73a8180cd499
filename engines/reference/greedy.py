"""Greedy tokens on an executor that nobody else uses: of one prompt, or of several in the same steps.

Requests that come and go are the scheduler's.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .batches import Decode, Prefill
from .executor import Executor


def greedy(executor: Executor, prompt: list[int], num_tokens: int) -> list[int]:
    """The `num_tokens` most probable next tokens of one prompt, without a scheduler."""
    return greedy_together(executor, [prompt], num_tokens=[num_tokens], num_slots=1)[0]


def greedy_together(
    executor: Executor, prompts: Sequence[Sequence[int]], *, num_tokens: Sequence[int], num_slots: int
) -> list[list[int]]:
    """The `num_tokens` most probable next tokens of each prompt, `num_slots` prompts in a step."""
    found: list[list[int]] = [[] for _ in prompts]
    # The longest answers first: those that are done leave the last slots, and the others stay compact.
    order = sorted(range(len(prompts)), key=lambda index: -num_tokens[index])
    for start in range(0, len(order), num_slots):
        group = order[start : start + num_slots]
        answers = _answer(
            executor, [prompts[index] for index in group], [num_tokens[index] for index in group]
        )
        for index, tokens in zip(group, answers, strict=True):
            found[index] = tokens
    return found


def _answer(executor: Executor, prompts: Sequence[Sequence[int]], counts: Sequence[int]) -> list[list[int]]:
    """The tokens of prompts that have a slot each; counts fall."""
    answers = [
        _best(executor.forward(Prefill(slot=slot, start=0, tokens=tuple(prompt))))
        for slot, prompt in enumerate(prompts)
    ]
    for length in range(1, counts[0]):
        open_slots = range(sum(count > length for count in counts))
        logits = executor.forward(
            Decode(
                tokens=tuple(answers[slot][-1] for slot in open_slots),
                positions=tuple(len(prompts[slot]) + length - 1 for slot in open_slots),
            )
        )
        for slot, token in zip(open_slots, _best(logits), strict=True):
            answers[slot].append(token)
    return answers


def _best(logits: Tensor | None) -> list[int]:
    assert logits is not None
    return [int(token) for token in logits.argmax(-1)]
