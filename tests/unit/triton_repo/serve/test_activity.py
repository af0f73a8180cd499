"""What processes do, read from a /proc that is written here as proc(5) says, and from this machine's own."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from tests.support.patience import wait_until
from triton_repo.serve.activity import activities, waits_of

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def write_process(
    proc: Path,
    pid: int,
    *,
    parent: int = 1,
    name: str = "program",
    threads: str = "S",
    ran_s: float = 0,
    waited_s: float = 0,
    read: int = 0,
) -> None:
    """One process whose threads have the states of the letters `threads`; the first thread has waited."""
    ticks = round(ran_s * TICKS_PER_S)
    for number, state in enumerate(threads):
        thread = proc / str(pid) / "task" / str(pid + number)
        thread.mkdir(parents=True)
        (thread / "stat").write_text(f"{pid + number} ({name}) {state} {parent} 1 1 0\n")
        (thread / "schedstat").write_text(f"7 {round(waited_s * 1e9) if number == 0 else 0} 3\n")
        (thread / "wchan").write_text("0" if state == "R" else "futex_wait_queue")
    stat = f"{pid} ({name}) {threads[0]} {parent} 1 1 0 -1 0 1 2 3 4 {ticks} {ticks} 0 0 20 0 1 0 99\n"
    (proc / str(pid) / "stat").write_text(stat)
    (proc / str(pid) / "cmdline").write_bytes(b"/bin/program\0--x\0")
    (proc / str(pid) / "io").write_text(f"rchar: {read}\nwchar: 5\nsyscr: 1\nsyscw: 1\n")


def test_a_process_and_those_below_it_are_read_with_their_threads(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("no process")
    write_process(tmp_path, 100, name="a (b) c", threads="SSR", ran_s=1.5, waited_s=0.25, read=37)
    write_process(tmp_path, 200, parent=100, threads="S")
    write_process(tmp_path, 300, parent=200, threads="SD")
    write_process(tmp_path, 400, parent=100, threads="T")
    write_process(tmp_path, 500, parent=100, threads="Z")
    write_process(tmp_path, 600, parent=1)
    found = {one.pid: one for one in activities(100, proc=tmp_path)}
    assert list(found) == [100, 200, 400, 300], "those below, not a dead one, not another's"
    assert (found[100].runnable_s, found[100].num_bytes) == (2 * 1.5 + 0.25, 42)
    assert found[100].command == ("/bin/program", "--x")
    at_work = {pid for pid, one in found.items() if one.is_at_work}
    assert at_work == {100, 300}, "one stopped, one asleep; a disk is waited for"
    assert found[300].parent == 200


def test_a_kernel_that_counts_less_still_says_what_ran(tmp_path: Path) -> None:
    write_process(tmp_path, 100, ran_s=1, waited_s=9)
    (tmp_path / "100/task/100/schedstat").unlink()
    (tmp_path / "100/io").unlink()
    (one,) = activities(100, proc=tmp_path)
    assert (one.runnable_s, one.num_bytes) == (2.0, 0)


def test_what_ended_is_not_there(tmp_path: Path) -> None:
    assert activities(100, proc=tmp_path) == ()
    assert waits_of(100, proc=tmp_path) == "unknown"


def test_waits_are_told_once_each(tmp_path: Path) -> None:
    write_process(tmp_path, 100, threads="SSR")
    assert waits_of(100, proc=tmp_path) == "R, S futex_wait_queue"


def test_a_real_stopped_process_is_at_no_work_and_a_busy_one_is_runnable() -> None:
    with subprocess.Popen(["/bin/sh", "-c", "while :; do :; done"]) as busy:
        try:
            begun = activities(busy.pid)[0].runnable_s
            wait_until(lambda: activities(busy.pid)[0].runnable_s > begun + 0.1, "it ran, or waited to")
            busy.send_signal(signal.SIGSTOP)
            wait_until(lambda: not activities(busy.pid)[0].is_at_work, "the stop")
            stopped = activities(busy.pid)[0].runnable_s
            assert activities(busy.pid)[0].runnable_s == stopped
            assert waits_of(busy.pid).startswith("T")
        finally:
            busy.kill()
