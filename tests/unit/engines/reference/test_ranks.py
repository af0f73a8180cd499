"""One process per rank that dies: its requests fail with a reason, the next one is answered."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch

from engines.reference import EngineError, Event, RankFailure, Sampling, Scheduler, load_config, open_executor
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


@pytest.mark.parametrize(
    ("whose", "said"), [("a rank", r"rank 1 ended \(signal 9\)"), ("parent", "rank [01] ended")]
)
def test_a_killed_rank_fails_its_requests_and_is_started_again(tmp_path: Path, whose: str, said: str) -> None:
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
        parent = psutil.Process(killed[1]).ppid()
        os.kill(killed[1] if whose == "a rank" else parent, signal.SIGKILL)
        assert failed.wait(PATIENCE_S)
        error = events[-1].error
        assert error is not None
        assert re.match(f"the model failed and is being restarted: {said}", error), error
        again, done = run(scheduler, 8)
        assert done.wait(PATIENCE_S)
        assert [event.token_ids for event in again] == [event.token_ids for event in whole]
        assert not any(is_there(pid) for pid in (*killed, parent))
    finally:
        scheduler.close()


def is_there(pid: int) -> bool:
    """Whether a process runs; one whose parent was killed may wait for init to notice its end."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_rank_that_cannot_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    engine, _, _ = write_tiny_engine(tmp_path, tp_size=2)
    config = load_config(engine)
    (engine / "checkpoint" / "rank1.safetensors").write_bytes(b"")
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(RankFailure, match=r"rank 1 ended \(exit status 1\): .*rank1\.safetensors"):
        open_executor(config, kind="processes", device="cpu", compute_dtype="auto", num_slots=1)
    assert set(psutil.Process().children(recursive=True)) <= before


def test_what_forks_the_ranks_says_why_it_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(write_tiny_engine(tmp_path, tp_size=2)[0])
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no torch here >&2\nexit 3\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(RankFailure, match=r"the process of the ranks ended \(exit status 3\): no torch here"):
        open_executor(config, kind="processes", device="cpu", compute_dtype="auto", num_slots=1)


def test_a_process_a_rank_is_refused_where_there_are_fewer_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    config = load_config(write_tiny_engine(tmp_path, tp_size=2)[0])
    with pytest.raises(EngineError, match="2 ranks need as many GPUs, found 1; use executor lockstep"):
        open_executor(config, kind="processes", device="cuda", compute_dtype="auto", num_slots=1)
