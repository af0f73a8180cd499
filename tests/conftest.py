"""What holds for every test, and which tests stay together when several processes run them."""

import gc
import os

os.environ["XDG_CONFIG_HOME"] = (
    "/nonexistent"  # Before tpforge is imported: the user's defaults are no test's.
)
if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch is imported: beside other workers, threads over tiny tensors wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.nodeid import NodeId

from engines.reference.process import spin_briefly
from tests.support.scratch import write_to_memory
from triton_repo.openai.environment import environment_folder, is_complete

# Compiled once and kept: else each process that runs tests, and each that a test starts, compiles it all.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Thousands of tests, torch and transformers are millions of objects that stay: to look through them all takes
# half a second, and by Python's own thresholds that is done again and again.
gc.set_threshold(20_000, 10, 10)

# A shell without job control makes background processes, and their children, deaf to Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

spin_briefly()
write_to_memory()

SERVERS = {"lockstep", "processes_server"}
"""Fixtures of a session that start a server of the tiny engine."""


@pytest.fixture(scope="session", autouse=True)
def own_state() -> Iterator[None]:
    """The state of the servers of tests, and what they learn, lies in a folder of its own, not the user's.

    NVIDIA Dynamo is taken from where the user has installed it: tests that need it are skipped where it is
    not there.
    """
    dynamo = environment_folder()
    with (
        tempfile.TemporaryDirectory(prefix="tpforge-state-") as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setitem(os.environ, "XDG_STATE_HOME", folder)
        patch.setitem(os.environ, "XDG_DATA_HOME", f"{folder}/data")
        if is_complete(dynamo):
            installed = Path(folder, "data", "tpforge", dynamo.name)
            installed.parent.mkdir(parents=True)
            installed.symlink_to(dynamo)
        yield


@pytest.fixture(scope="session", autouse=True)
def unflushed() -> Iterator[None]:
    """Nothing here outlives a loss of power, and a flush waits for what all workers wrote.

    In which order files are flushed is seen by the tests of it, which put another `fsync` here.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", _check_descriptor)
        yield


def _check_descriptor(descriptor: int) -> None:
    """As `fsync`, refuse one that is not open."""
    os.fstat(descriptor)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One for each processor that is ours, and two more: servers are waited for while others compute."""
    return len(os.sched_getaffinity(0)) + 2


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of a file share what is made for all of them, but for those that say that they share nothing.

    Files whose tests ask the session's servers share one worker, so that those are started once. What starts
    servers comes first, since it takes longest: the others fill the gaps at the end.
    """
    if not hasattr(config, "workerinput"):
        return
    items.sort(key=lambda item: item.get_closest_marker("e2e") is None)
    asking = {_file_of(item) for item in items if SERVERS & set(getattr(item, "fixturenames", ()))}
    for item in items:
        if item.get_closest_marker("apart") is None:
            file = _file_of(item)
            _keep_together(item, "the session's servers" if file in asking else file)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """What was imported and collected stays to the end: no search for cycles need go through it again."""
    gc.collect()
    gc.freeze()


def _keep_together(item: pytest.Item, group: str) -> None:
    """Say the group by the end of the test's id, as xdist's loadgroup reads it.

    By its mark xdist 3.8 does so itself, but in a place that pytest 9.2 does not read any more.
    """
    item._id = NodeId.parse(f"{item.nodeid}@{group}")


def _file_of(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]
