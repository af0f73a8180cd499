"""Completion as a shell asks for it: by bash itself, and by click's protocol for the others."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.main import main


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("alpha-tp2", "alpha-tp4", "beta"):
        (tmp_path / "out" / name / "engine").mkdir(parents=True)
        (tmp_path / "out" / name / "engine" / "engine.json").write_text("{}")
    return tmp_path


def complete(line: str, *, shell: str, cwd: Path) -> list[str]:
    """What is offered for the last word of a line."""
    *before, last = line.split(" ")
    words = [*before, last] if shell == "bash" else before
    environment = {
        **os.environ,
        "_TPFORGE_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": " ".join([*words, *([] if shell == "bash" else [last])]),
        "COMP_CWORD": last if shell == "fish" else str(len(before)),
    }
    command = [sys.executable, "-m", "tpforge"]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    lines = [text for text in done.stdout.splitlines() if text]
    if shell == "zsh":
        return lines[1::3]
    return [text.partition(",")[2].partition("\t")[0] for text in lines]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("tpforge ver", ["verify", "versions"]),
        ("tpforge engines pu", ["push", "pull"]),
        ("tpforge serve al", ["alpha-tp2", "alpha-tp4"]),
        ("tpforge engines rm beta al", ["alpha-tp2", "alpha-tp4"]),
        ("tpforge generate --engine b", ["beta"]),
        ("tpforge plan llama-3.1-8", ["llama-3.1-8b"]),
        ("tpforge plan m --gpu h100", ["h100-sxm", "h100-pcie", "h100-nvl"]),
        ("tpforge build m --quantize mx", ["mxfp4"]),
        ("tpforge formats int8_s", ["int8_sq"]),
        ("tpforge build m --runtime te", ["tensorrt"]),
        ("tpforge bench --model ll", []),
        ("tpforge smoke --model ll", []),
        ("tpforge generate --model ll", []),
    ],
)
def test_names_are_offered_by_their_tables(place: Path, shell: str, line: str, offered: list[str]) -> None:
    if shell != "bash" and not line.startswith(("tpforge serve", "tpforge ver")):
        pytest.skip("the tables are the same; each shell's protocol is asked twice")
    assert sorted(complete(line, shell=shell, cwd=place)) == sorted(offered)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_is_one_that_the_shell_reads(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert f"_TPFORGE_COMPLETE={shell}_complete" in script
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not here to read it")
    subprocess.run([program, "-n"], input=script, text=True, check=True)


def test_bash_itself_completes(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which("bash") is None:
        pytest.skip("bash is not here")
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out + (
        '\nCOMP_WORDS=(tpforge serve al); COMP_CWORD=2; _tpforge_completion tpforge; echo "${COMPREPLY[*]}"\n'
    )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=place,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["alpha-tp2", "alpha-tp4"]
