"""The scheduler that tests of it share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import engines.reference.scheduler as module
from engines.reference import Scheduler
from tests.support.fake_executor import END, VOCAB, FakeExecutor, House


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    executors: list[FakeExecutor] = []

    def open_fake(_config: object, *, num_slots: int, **_: object) -> FakeExecutor:
        executors.append(FakeExecutor(num_slots))
        return executors[-1]

    limits = SimpleNamespace(max_batch_size=3, max_input_len=64, max_seq_len=96)
    config = SimpleNamespace(limits=limits, vocab_size=VOCAB, end_ids=(END,), pad_id=None)
    monkeypatch.setattr(module, "load_config", lambda _folder: config)
    monkeypatch.setattr(module, "open_executor", open_fake)
    monkeypatch.setattr(module, "PREFILL_CHUNK", 8)
    scheduler = Scheduler(Path("unused"))
    yield House(scheduler, executors)
    scheduler.close()
