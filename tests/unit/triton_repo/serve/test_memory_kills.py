"""A server is said to have died of memory where the kernel counts kills for it; no memory is used up here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engines.reference import ranks
from tests.unit.triton_repo.serve.test_first_start import BY_CHANCE, starts
from tpforge.errors import InputRefused
from triton_repo.serve import processes, supervisor
from triton_repo.serve.readiness import Stopped

__all__ = ["starts"]  # a fixture


def vmstat(folder: Path, text: str) -> Path:
    (folder / "vmstat").write_text(text, encoding="ascii")
    return folder


@pytest.mark.parametrize(
    ("text", "number"),
    [("pgfault 7\noom_kill 3\nnr_foll_pin_acquired 5\n", 3), ("oom_kill_disable 9\npgfault 7\n", 0), ("", 0)],
)
def test_the_kernels_own_count_is_read(
    text: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_PROC", vmstat(tmp_path, text))
    assert processes.num_memory_kills() == number


def test_a_kernel_that_does_not_count_is_no_evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_PROC", tmp_path)
    assert processes.memory_note(0) == ""


def test_this_kernel_is_read_alike_by_the_runtime_that_is_copied_beside_a_model() -> None:
    before = processes.num_memory_kills()
    found = ranks._num_memory_kills()
    assert before <= found <= processes.num_memory_kills()


def test_a_first_start_that_died_while_memory_ran_out_says_so(
    starts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter((4, 6))
    monkeypatch.setattr(supervisor.processes, "num_memory_kills", lambda: next(counts))
    with pytest.raises(InputRefused) as caught:
        starts("tritonserver was ended by SIGKILL")
    assert str(caught.value) == (
        "tritonserver was ended by SIGKILL; memory ran out: the kernel has killed 2 processes on this "
        "machine since the server was started"
    )


def test_memory_that_ran_out_before_a_start_says_nothing_of_it(
    starts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor.processes, "num_memory_kills", lambda: 4)
    with pytest.raises(InputRefused) as caught:
        starts("tritonserver was ended by SIGKILL")
    assert str(caught.value) == "tritonserver was ended by SIGKILL"
    with pytest.raises(Stopped):
        starts(BY_CHANCE, None)
