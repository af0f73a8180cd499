"""What holds for every test."""

import os

os.environ["XDG_CONFIG_HOME"] = (
    "/nonexistent"  # Before tpforge is imported: the user's defaults are no test's.
)

import signal
import tempfile
from collections.abc import Iterator

import pytest

from engines.reference.process import spin_briefly

# A shell without job control makes background processes, and their children, deaf to Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

spin_briefly()


@pytest.fixture(scope="session", autouse=True)
def own_state() -> Iterator[None]:
    """The state of the servers of tests, and what they learn, lies in a folder of its own, not the user's."""
    with (
        tempfile.TemporaryDirectory(prefix="tpforge-state-") as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setitem(os.environ, "XDG_STATE_HOME", folder)
        patch.setitem(os.environ, "XDG_DATA_HOME", f"{folder}/data")
        yield
