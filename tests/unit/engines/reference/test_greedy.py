"""Greedy tokens of several prompts in the same steps: those that each gets alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.reference import Decode, Prefill, load_config, open_executor
from engines.reference.batches import Batch
from engines.reference.greedy import greedy, greedy_together
from tests.support.tiny_engine import write_tiny_engine

PROMPTS = tuple(tuple((seed * i * i + 3 * i + 1) % 256 for i in range(5 + 7 * seed)) for seed in (1, 3, 2, 5))
COUNTS = (4, 9, 1, 6)


@pytest.mark.parametrize("num_slots", [1, 2, 3, 4])
def test_prompts_decoded_together_get_the_tokens_that_each_gets_alone(tmp_path: Path, num_slots: int) -> None:
    engine, _, _ = write_tiny_engine(tmp_path, tp_size=2)
    executor = open_executor(
        load_config(engine), kind="lockstep", device="cpu", compute_dtype="float32", num_slots=num_slots
    )
    alone = [greedy(executor, list(prompt), count) for prompt, count in zip(PROMPTS, COUNTS, strict=True)]
    assert [len(tokens) for tokens in alone] == list(COUNTS)
    assert len({tuple(tokens) for tokens in alone}) == len(PROMPTS)
    assert greedy_together(executor, PROMPTS, num_tokens=COUNTS, num_slots=num_slots) == alone


def test_a_step_holds_the_prompts_whose_answers_are_not_done(tmp_path: Path) -> None:
    engine, _, _ = write_tiny_engine(tmp_path)
    executor = open_executor(
        load_config(engine), kind="lockstep", device="cpu", compute_dtype="float32", num_slots=4
    )
    batches: list[Batch] = []
    forward = executor.forward

    def seen(batch: Batch) -> object:
        batches.append(batch)
        return forward(batch)

    executor.forward = seen  # type: ignore[method-assign, assignment]
    greedy_together(executor, PROMPTS, num_tokens=COUNTS, num_slots=4)
    assert [batch.slot for batch in batches if isinstance(batch, Prefill)] == [0, 1, 2, 3]
    steps = [len(batch.tokens) for batch in batches if isinstance(batch, Decode)]
    assert steps == [3, 3, 3, 2, 2, 1, 1, 1]
