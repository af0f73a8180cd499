"""`--force` of every command that writes a folder: it replaces what an earlier run wrote."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from scripts.main import main
from tests.support.runs import level_of, run_of
from tests.support.tiny_engine import write_tiny_engine
from tpforge.measure.runs.run import write_run

Command = Callable[[Path], Sequence[str]]

COMMANDS: dict[str, Command] = {
    "convert": lambda here: ["convert", str(here / "source"), "--tp", "2"],
    "build": lambda here: ["build", str(here / "source"), "--tp", "2"],
    "build for the LLM API": lambda here: [
        *["build", str(here / "source"), "--tp", "2", "--runtime", "pytorch", "--sm", "90"]
    ],
    "render": lambda here: ["render", str(here / "engine")],
    "deploy": lambda here: ["deploy", str(here / "engine"), "--target", "compose"],
    "pull": lambda here: ["engines", "pull", f"file://{here}/store", "--out"],
    "compare": lambda here: ["compare", str(here / "tp1"), str(here / "tp2")],
    "decide": lambda here: [
        *["decide", str(here / "tp1"), str(here / "tp2"), "--recommend", "tp1", "--fallback", "tp2"],
        *["--because", "it is faster"],
    ],
}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, an engine of it, the same at a URL, and two runs."""
    folder = tmp_path_factory.mktemp("force")
    write_tiny_engine(folder, tp_size=2)
    assert main(["engines", "push", str(folder / "engine"), f"file://{folder}/store"]) == 0
    for tp in (1, 2):
        level, samples = level_of(((0.1 * tp, 0.11), (0.12, 0.1), (0.11, 0.13)), durations=[tp, tp, tp])
        engine = {"tp": tp, "pp": 1, "runtime": "reference", "name": f"m-tp{tp}"}
        run = run_of(f"tp{tp}", [level], engine=engine, environment={"num_cpus": 2})
        write_run(folder / f"tp{tp}", run, samples)
    return folder


def run(name: str, here: Path, out: Path) -> int:
    words = [word for word in COMMANDS[name](here) if word != "--out"]
    return main([*words, "--out", str(out), "--force"])


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_of_someone_else_is_refused_and_stays(
    name: str, here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep" / "precious").write_text("1")
    assert run(name, here, tmp_path / "keep") == 4
    assert "not known to be an output of tpforge" in capsys.readouterr().err
    assert contents(tmp_path) == {"keep/precious": b"1"}


@pytest.mark.parametrize("name", COMMANDS)
def test_files_of_the_user_stay_and_an_edited_file_is_kept_and_named(
    name: str, here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(name, here, out) == 0
    first = contents(out)
    edited = next(path for path in sorted(first) if not path.startswith("."))
    (out / edited).write_bytes(b"by hand")
    (out / "credentials.env").write_text("KEY=1")
    (out / "mine").mkdir()
    (out / "mine" / "deep").symlink_to("../credentials.env")
    assert run(name, here, out) == 0
    second = contents(out)
    assert f"kept as {edited}.kept" in capsys.readouterr().err
    assert second.pop(f"{edited}.kept") == b"by hand"
    assert second.pop("credentials.env") == second.pop("mine/deep") == b"KEY=1"
    assert (out / "mine" / "deep").is_symlink()
    assert second.keys() == first.keys()
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
