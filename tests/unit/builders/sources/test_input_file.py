"""Small files of a checkpoint that are pipes, devices or without end: nothing waits or fills memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from builders.sources.input_file import MAX_BYTES
from scripts.main import main
from tests.support.tiny import write_tiny_llama


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + (1 << 20))


MAKE: dict[str, Callable[[Path], None]] = {
    "a pipe": os.mkfifo,
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a file without end": sparse,
}


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("words", [["plan", "--gpu", "h100-sxm"], ["inspect"]], ids=["plan", "inspect"])
def test_a_config_that_is_no_small_file_is_refused_at_once(
    words: list[str], kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_tiny_llama(tmp_path / "model")
    (model / "config.json").unlink()
    MAKE[kind](model / "config.json")
    assert main([words[0], str(model), *words[1:]]) == 4
    assert "config.json" in capsys.readouterr().err
