"""What a process sets for itself: by who owns it, not by what is constructed in it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from engines import reference
from engines.reference import load_config, open_executor
from engines.reference.lockstep import Lockstep
from tests.support.tiny_engine import write_tiny_engine

ROOT = Path(__file__).parents[4]


def run(code: str, **environment: str) -> str:
    """What a fresh interpreter prints."""
    words = [sys.executable, "-c", code]
    found = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return found.stdout.strip()


def test_the_waiting_of_threads_is_set_before_torch_can_be_imported() -> None:
    code = """
import os, sys
from engines.reference.process import spin_briefly
spin_briefly()
print("torch" in sys.modules, os.environ["GOMP_SPINCOUNT"])
"""
    assert run(code) == "False 4000"
    assert run(code, GOMP_SPINCOUNT="7") == "False 7"


def test_importing_the_runtime_sets_nothing() -> None:
    code = """
import os
from engines.reference import Scheduler, open_executor
import torch
print(os.environ.get("GOMP_SPINCOUNT"), torch.backends.cuda.cudnn_sdp_enabled())
"""
    assert run(code) == "None True"


def test_what_is_loaded_is_not_looked_through_and_what_comes_later_is() -> None:
    code = """
import gc
from engines.reference.process import loading
started = []
gc.callbacks.append(lambda phase, info: started.append(phase))
with loading():
    print(gc.isenabled(), end=" ")
    loaded = [[] for _ in range(100_000)]
print(len(started), gc.isenabled(), gc.get_freeze_count() > 100_000)
gc.disable()
with loading():
    pass
print(gc.isenabled())
"""
    assert run(code) == "False 0 True True\nFalse"


def test_a_model_of_triton_sets_the_waiting_before_torch_is_looked_for() -> None:
    code = """
import os, runpy, sys, unittest.mock

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("GOMP_SPINCOUNT"))

sys.meta_path.insert(0, Watch())
sys.modules["triton_python_backend_utils"] = unittest.mock.MagicMock()
sys.path[:0] = ["engines", "triton_repo/templates/reference"]
runpy.run_path("triton_repo/templates/reference/tensorrt_llm/1/model.py")
"""
    assert run(code) == "4000"


def test_the_program_sets_the_waiting_before_it_runs_a_command() -> None:
    code = """
import os, sys
from scripts.main import main
main(["versions", "--json"])
print(os.environ["GOMP_SPINCOUNT"], file=sys.stderr)
"""
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=ROOT, env={}, capture_output=True, text=True)
    assert done.stderr.split()[-1] == "4000"


def test_every_name_of_the_runtime_is_there_and_no_other() -> None:
    assert all(getattr(reference, name).__name__ == name for name in reference.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Sheduler'"):
        reference.Sheduler  # type: ignore[attr-defined]  # noqa: B018


def test_opening_ranks_on_cuda_keeps_torch_from_attending_by_cudnn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, _, _ = write_tiny_engine(tmp_path, tp_size=1)
    config = load_config(engine)
    said: list[Any] = []
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", said.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    Lockstep(config, num_slots=1, device=torch.device("cpu"), dtype=torch.float32).close()
    assert said == []

    monkeypatch.setattr(
        "engines.reference.opening.Lockstep", lambda *_, device, **__: said.append(device.type)
    )
    open_executor(config, kind="lockstep", device="cuda", compute_dtype="auto", num_slots=1)

    assert said == [False, "cuda"]
