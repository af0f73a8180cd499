"""A fake executor whose next token depends on the whole history in its slot, and a scheduler over it.

Its slots behave as a KV cache: whatever is fed is remembered at its position, and moved by Move. A wrong
slot, position or length therefore changes the tokens.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from engines.reference import Event, RankFailure, Request, Sampling, Scheduler
from engines.reference.batches import Batch, Decode, Logits, Move, Prefill
from tests.support.patience import PATIENCE_S

VOCAB = 101


END = 100


def next_token(history: list[int]) -> int:
    """Any function of the whole history will do; it never gives END below 40 tokens."""
    return (sum((index + 3) * token for index, token in enumerate(history)) + len(history)) % 97


def expected(prompt: list[int], count: int) -> list[int]:
    history = list(prompt)
    for _ in range(count):
        history.append(next_token(history))
    return history[len(prompt) :]


class FakeExecutor:
    def __init__(self, num_slots: int) -> None:
        self.slots: list[list[int]] = [[] for _ in range(num_slots)]
        self.batch_sizes: list[int] = []
        self.order: list[str] = []
        self.failures = 0
        self.error: Exception | None = None
        self.failing_moves = 0
        self.spoiled: dict[int, float] = {}
        self.closed = False
        self.gate = threading.Event()
        self.gate.set()
        self.steps_left: int | None = None
        """After so many steps the gate closes by itself."""

    def forward(self, batch: Batch) -> torch.Tensor | None:
        self.gate.wait(PATIENCE_S)
        if self.steps_left is not None:
            self.steps_left -= 1
            if not self.steps_left:
                self.steps_left = None
                self.gate.clear()
        if self.failures:
            self.failures -= 1
            raise RankFailure("rank 1 ended (signal 9)")
        if self.error is not None:
            raise self.error
        self.order.append(type(batch).__name__)
        if isinstance(batch, Prefill):
            self.slots[batch.slot] = [*self.slots[batch.slot][: batch.start], *batch.tokens]
            assert len(self.slots[batch.slot]) == batch.start + len(batch.tokens)
            return None if batch.logits is Logits.NONE else self._logits([batch.slot])
        assert isinstance(batch, Decode)
        self.batch_sizes.append(len(batch.tokens))
        for slot, (token, position) in enumerate(zip(batch.tokens, batch.positions, strict=True)):
            self.slots[slot] = [*self.slots[slot][:position], token]
            assert len(self.slots[slot]) == position + 1
        return self._logits(range(len(batch.tokens)))

    def _logits(self, slots: Iterable[int]) -> torch.Tensor:
        slots = list(slots)
        rows = [torch.nn.functional.one_hot(torch.tensor(next_token(self.slots[s])), VOCAB) for s in slots]
        logits = torch.stack(rows).float()
        for row, slot in enumerate(slots):
            # What a first token marks: the request of that prompt gets logits that are no numbers.
            if (value := self.spoiled.get(self.slots[slot][0])) is not None:
                logits[row] = value
        return logits

    def move(self, move: Move) -> None:
        if self.failing_moves:
            self.failing_moves -= 1
            raise RankFailure("rank 1 ended (signal 9)")
        self.slots[move.target] = self.slots[move.source][: move.length]

    def close(self) -> None:
        self.closed = True


@dataclass
class Listener:
    events: list[Event] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def __call__(self, event: Event) -> None:
        assert not self.done.is_set(), "an event came after the last one"
        self.events.append(event)
        if event.finished:
            self.done.set()

    def wait(self) -> Event:
        assert self.done.wait(PATIENCE_S), "the request never ended"
        return self.events[-1]

    @property
    def tokens(self) -> list[int]:
        return [token for event in self.events for token in event.token_ids]


@dataclass
class House:
    scheduler: Scheduler
    executors: list[FakeExecutor]

    def run(self, prompt: list[int], count: int, **options: object) -> tuple[Request, Listener]:
        listener = Listener()
        sampling = Sampling(max_tokens=count, **options)  # type: ignore[arg-type]
        return self.scheduler.submit(prompt, sampling, listener), listener
