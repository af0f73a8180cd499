"""Programs are read line by line and never outlive the block that runs them: the kernel is asked."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tpforge.errors import EnvironmentUnusable
from tpforge.system.programs import run_lines, running

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "print('up', flush=True); time.sleep(600)"
)
ENDLESS = "import itertools; [print(n, flush=True) for n in itertools.count()]"


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_lines_come_with_their_breaks_and_bad_bytes_and_the_status_is_told() -> None:
    code = "import os, sys; os.write(1, b'one\\n\\xff\\n'); sys.stderr.write('last'); sys.exit(7)"
    lines: list[str] = []
    assert run_lines(python(code), on_line=lines.append) == 7
    assert lines == ["one\n", "\ufffd\n", "last"]


def test_its_errors_go_to_a_file_its_environment_and_folder_are_those_given(tmp_path: Path) -> None:
    code = "import os, sys; print(os.getcwd(), os.environ['WORD'], sys.stdin.read()); sys.stderr.write('e')"
    lines: list[str] = []
    with (tmp_path / "errors").open("w") as errors:
        env = {**os.environ, "WORD": "w"}
        assert run_lines(python(code), on_line=lines.append, cwd=tmp_path, env=env, stderr=errors) == 0
    assert lines == [f"{tmp_path} w \n"]
    assert (tmp_path / "errors").read_text() == "e"


def test_a_program_is_gone_when_its_reader_fails() -> None:
    seen: list[int] = []

    def fail(line: str) -> None:
        seen.append(int(line))
        raise ZeroDivisionError

    code = f"import os; print(os.getpid(), flush=True); {ENDLESS}"
    with pytest.raises(ZeroDivisionError):
        run_lines(python(code), on_line=fail)
    assert is_gone(seen[0])


def test_one_that_does_not_end_when_asked_is_killed() -> None:
    with running(python(STUBBORN), grace_s=0.05) as child:
        assert child.stdout is not None and child.stdout.readline() == "up\n"
    assert child.returncode == -9
    assert is_gone(child.pid)


def test_one_that_cannot_be_started_is_named(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentUnusable, match="no-such-program: cannot be started: No such file"):
        run_lines([str(tmp_path / "no-such-program")], on_line=print)
