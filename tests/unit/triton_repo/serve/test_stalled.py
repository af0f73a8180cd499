"""When a start is judged stalled: scripted looks at its processes and an injected clock."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from triton_repo.serve.activity import Activity
from triton_repo.serve.stalled import QUIET_S, Stall, StartWatch, show_stacks

SERVER = ("/opt/tritonserver", "--id=x")
Script = Callable[[float], list[Activity]]


def process(
    pid: int,
    command: tuple[str, ...],
    *,
    parent: int = 1,
    ran_s: float = 0,
    at_work: bool = False,
    read: int = 0,
) -> Activity:
    return Activity(pid, parent, command, at_work, ran_s, read)


def stub(model: str, pid: int, *, ran_s: float = 0, at_work: bool = False, read: int = 0) -> Activity:
    command = ("/b/triton_python_backend_stub", f"/repo/{model}/1/model.py", "region")
    return process(pid, command, parent=1, ran_s=ran_s, at_work=at_work, read=read)


def watched(
    script: Script,
    *,
    until_s: float = 600,
    loading: tuple[str, ...] = ("preprocessing", "tensorrt_llm"),
    log_size: Callable[[float], int] = lambda _seconds: 7,
    every_s: float = 1.0,
) -> tuple[float, Stall] | None:
    """When a stall was found, and which; `script` says for each second what runs besides the server."""
    seconds = 0.0
    server = process(1, SERVER, parent=0)
    watch = StartWatch(1, look=lambda _pid: [server, *script(seconds)], now=lambda: seconds)
    while seconds < until_s:
        if found := watch.stall(loading=loading, log_size=log_size(seconds)):
            return seconds, found
        seconds += every_s
    return None


def busy(seconds: float) -> Activity:
    return stub("tensorrt_llm", 3, ran_s=seconds)


def test_a_process_that_does_nothing_beside_one_that_loads_is_found_after_a_minute() -> None:
    found = watched(lambda seconds: [stub("preprocessing", 2), busy(seconds)])
    assert found is not None
    assert QUIET_S <= found[0] <= QUIET_S + 3
    assert found[1].cause.startswith("the process of model preprocessing (pid 2) did nothing for 60 s")
    assert found[1].pids == (2,)


def test_of_two_processes_of_a_model_both_are_named() -> None:
    """One hangs, the other has loaded and waits: the log does not tell which."""
    found = watched(lambda seconds: [stub("preprocessing", 2), stub("preprocessing", 4), busy(seconds)])
    assert found is not None and found[1].pids == (2, 4)
    assert "preprocessing (pid 2), the process of model preprocessing (pid 4) did nothing" in found[1].cause


def test_one_that_only_looks_whether_there_is_work_does_nothing() -> None:
    """A stub's own thread wakes some three times a second, and waits a while for a processor then."""
    found = watched(lambda seconds: [stub("preprocessing", 2, ran_s=0.03 * seconds), busy(seconds)])
    assert found is not None and found[1].pids == (2,)


@pytest.mark.parametrize(
    ("what", "moves"),
    [
        ("loads", lambda seconds: stub("preprocessing", 2, ran_s=0.5 * seconds)),
        ("is starved, and the kernel counts it late", lambda _: stub("preprocessing", 2, at_work=True)),
        ("reads from a slow network", lambda seconds: stub("preprocessing", 2, read=int(50_000 * seconds))),
        ("was started now and then", lambda seconds: stub("preprocessing", 2 + 2 * int(seconds // 40))),
        ("hung and went on", lambda seconds: stub("preprocessing", 2, ran_s=max(0.0, seconds - 50))),
    ],
)
def test_one_that_moves_is_left_alone(what: str, moves: Callable[[float], Activity]) -> None:
    assert watched(lambda seconds: [moves(seconds), busy(seconds)]) is None, what


def test_a_process_below_it_that_works_is_its_work() -> None:
    def ranks(seconds: float) -> list[Activity]:
        rank = process(4, ("python", "-m", "worker"), parent=3, ran_s=seconds)
        return [stub("tensorrt_llm", 3), rank]

    assert watched(ranks) is None
    stopped = watched(lambda seconds: ranks(min(seconds, 100.0)))
    assert stopped is not None and 100 + 0.9 * QUIET_S <= stopped[0] <= 100 + QUIET_S + 3
    assert stopped[1].pids == (3, 4)


def test_a_model_that_waits_for_a_starved_triton_does_not_hang() -> None:
    seconds = 0.0

    def look(_pid: int) -> list[Activity]:
        return [process(1, SERVER, parent=0, ran_s=0.5 * seconds), stub("preprocessing", 2)]

    watch = StartWatch(1, look=look, now=lambda: seconds)
    while seconds < 600:
        assert watch.stall(loading=("preprocessing",), log_size=7) is None
        seconds += 1.0


def test_a_model_that_is_loaded_may_wait() -> None:
    script: Script = lambda seconds: [stub("postprocessing", 2), busy(seconds)]  # noqa: E731
    assert watched(script) is None


def test_a_child_that_never_became_a_model_is_found() -> None:
    """Triton's child that hangs between fork and exec looks like Triton (server 5211)."""
    found = watched(lambda seconds: [process(2, SERVER, parent=1), busy(seconds)])
    assert found is not None
    assert found[1].cause.startswith("a process that was to become a model's (pid 2)")


def test_a_server_in_which_nothing_moves_is_found_whatever_is_loaded() -> None:
    found = watched(lambda _seconds: [stub("preprocessing", 2), stub("ensemble", 3)], loading=())
    assert found is not None and found[1].pids == (1, 2, 3)


def test_a_log_that_grows_is_movement() -> None:
    script: Script = lambda _seconds: [stub("preprocessing", 2)]  # noqa: E731
    assert watched(script, log_size=lambda seconds: int(seconds // 30)) is None


def test_a_watch_that_could_not_look_has_seen_nothing() -> None:
    """Stopped by Ctrl-Z, starved or suspended: an hour between two looks is no hour without movement."""
    found = watched(lambda seconds: [stub("preprocessing", 2)], every_s=3600, until_s=5 * 3600)
    assert found is None


def test_asked_more_often_it_looks_once_a_second() -> None:
    looks: list[float] = []

    def script(seconds: float) -> list[Activity]:
        looks.append(seconds)
        return [busy(seconds)]

    watched(script, every_s=0.125, until_s=30)
    assert 25 <= len(looks) <= 30


def test_a_server_that_is_gone_is_no_stall() -> None:
    watch = StartWatch(1, look=lambda _pid: [], now=iter(range(0, 1000, 2)).__next__)
    assert all(watch.stall(loading=("x",), log_size=1) is None for _ in range(100))


def test_a_stopped_python_says_where_it_was_and_ends(tmp_path: Path) -> None:
    program = (
        "import faulthandler, signal, time\n"
        "faulthandler.register(signal.SIGQUIT, file=2, chain=True)\n"
        "def hangs_here():\n"
        "    print('up', flush=True)\n"
        "    time.sleep(600)\n"
        "hangs_here()"
    )
    words = [sys.executable, "-c", program]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as hung:
        assert hung.stdout is not None and hung.stdout.readline() == "up\n"
        hung.send_signal(signal.SIGSTOP)
        show_stacks(Stall("hangs", (hung.pid,)))
        _, said = hung.communicate()
        assert hung.returncode == -signal.SIGQUIT
        assert "in hangs_here" in said
