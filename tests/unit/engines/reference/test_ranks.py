"""One process per rank that dies: its requests fail with a reason, the next one is answered."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch

from engines.reference import EngineError, Event, Sampling, Scheduler, load_config, open_executor
from engines.reference.ranks import Processes
from tests.support.patience import PATIENCE_S
from tests.support.tiny_engine import write_tiny_engine
from tpforge.manifest import Limits


def run(scheduler: Scheduler, count: int) -> tuple[list[Event], threading.Event]:
    events: list[Event] = []
    done = threading.Event()

    def listen(event: Event) -> None:
        events.append(event)
        if event.finished:
            done.set()

    scheduler.submit([5, 6, 7], Sampling(max_tokens=count, end_id=319), listen)
    return events, done


def test_a_killed_rank_fails_its_requests_and_is_started_again(tmp_path: Path) -> None:
    limits = Limits(max_batch_size=2, max_input_len=64, max_seq_len=512)
    engine, _, _ = write_tiny_engine(tmp_path, tp_size=2, limits=limits)
    scheduler = Scheduler(engine, executor="processes")
    try:
        whole, done = run(scheduler, 8)
        assert done.wait(PATIENCE_S)
        events, failed = run(scheduler, 500)
        while len(events) < 3:
            time.sleep(0.01)
        executor = scheduler._executor
        assert isinstance(executor, Processes)
        killed = executor.pids
        os.kill(killed[1], signal.SIGKILL)
        assert failed.wait(PATIENCE_S)
        error = events[-1].error
        assert error is not None
        assert error.startswith("the model failed and is being restarted: rank 1 ended (signal 9)")
        again, done = run(scheduler, 8)
        assert done.wait(PATIENCE_S)
        assert [event.token_ids for event in again] == [event.token_ids for event in whole]
        assert not any(psutil.pid_exists(pid) for pid in killed)
    finally:
        scheduler.close()


def test_a_process_a_rank_is_refused_where_there_are_fewer_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    config = load_config(write_tiny_engine(tmp_path, tp_size=2)[0])
    with pytest.raises(EngineError, match="2 ranks need as many GPUs, found 1; use executor lockstep"):
        open_executor(config, kind="processes", device="cuda", compute_dtype="auto", num_slots=1)
