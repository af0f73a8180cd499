"""`tpforge setup openai` that cannot end: why is said, and nothing half installed is taken for whole."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support.stores import quiet
from tpforge.errors import EnvironmentUnusable
from triton_repo.openai.environment import environment_folder, is_complete, mark_complete
from triton_repo.openai.install import install

pytestmark = pytest.mark.usefixtures("no_index")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's data folder of its own."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data" / "tpforge"


@pytest.fixture
def no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """pip asks an index at which nothing answers, once."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")


@pytest.fixture
def silent_index(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """An index that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.getsockname()[1]}/simple")
        yield server


def pip_that(says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for pip: it writes half a package, says something and fails."""
    package = tmp_path / "standin" / "pip"
    package.mkdir(parents=True)
    (package / "__init__.py").write_bytes(b"")
    (package / "__main__.py").write_text(
        textwrap.dedent(f"""
        import pathlib, sys
        root = pathlib.Path(sys.argv[sys.argv.index("--python") + 1]).parents[1]
        (root / "half").write_bytes(b"x")
        sys.exit({says!r})
        """)
    )
    monkeypatch.setenv("PYTHONPATH", str(package.parent))


def left(data: Path) -> list[str]:
    return [path.name for path in data.iterdir() if not path.name.endswith(".lock")]


def test_without_an_index_it_says_so_and_keeps_nothing(data: Path) -> None:
    with pytest.raises(EnvironmentUnusable, match=r"nothing of it is kept\. No package index answers"):
        install(progress=quiet)
    assert left(data) == []


@pytest.mark.parametrize(
    ("says", "hint"),
    [
        (
            "ERROR: OSError: [Errno 28] No space left on device",
            "The disk is full: free space, or .*XDG_DATA_HOME",
        ),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES", "kept. .* exit status 1:\n  ERROR: THESE"),
    ],
)
def test_what_pip_wrote_before_it_failed_is_removed(
    says: str, hint: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip_that(says, tmp_path, monkeypatch)
    with pytest.raises(EnvironmentUnusable, match=hint):
        install(progress=quiet)
    assert left(data) == []
    assert not is_complete(environment_folder())


def test_a_full_disk_is_refused_before_anything_is_fetched(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=400e6))
    with pytest.raises(EnvironmentUnusable, match=r"0\.40 GB are free, .* wants 1 GB; .*XDG_DATA_HOME"):
        install(progress=quiet)
    assert left(data) == []


def test_a_data_folder_that_cannot_be_written_is_told_with_the_variable_that_names_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    with pytest.raises(EnvironmentUnusable, match="XDG_DATA_HOME"):
        install(progress=quiet)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_setup_ends_with_its_pip_and_leaves_nothing(
    number: signal.Signals, data: Path, silent_index: socket.socket
) -> None:
    words = [sys.executable, "-m", "tpforge", "setup", "openai"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        silent_index.settimeout(60)
        connection, _ = silent_index.accept()  # pip asks, and waits for the answer.
        with connection:
            assert left(data) == [environment_folder().name]
            process.send_signal(number)
            _, said = process.communicate(timeout=60)
            connection.setblocking(False)  # pip is gone already, both of its processes.
            while connection.recv(65536):
                pass
    assert process.returncode in (130, 128 + number)
    assert "Traceback" not in said
    assert left(data) == []


def test_what_a_killed_setup_left_is_not_taken_for_whole_and_made_anew(data: Path) -> None:
    folder = environment_folder()
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    with pytest.raises(EnvironmentUnusable, match="No package index answers"):
        install(progress=quiet)
    assert left(data) == []
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    mark_complete(folder)
    assert install(progress=quiet) == (folder, False)
    (folder / "bin" / "python").unlink()
    (folder / "bin" / "python").symlink_to(data / "python-that-was-removed")
    assert not is_complete(folder)


def test_a_second_setup_says_that_it_waits_for_the_first(data: Path, silent_index: socket.socket) -> None:
    words = [sys.executable, "-m", "tpforge", "setup", "openai"]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as first:
        silent_index.settimeout(60)
        connection, _ = silent_index.accept()
        with connection, subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as second:
            assert second.stderr is not None
            assert any("waiting for another setup" in line for line in second.stderr)
            second.terminate()
            first.terminate()
    assert left(data) == []
