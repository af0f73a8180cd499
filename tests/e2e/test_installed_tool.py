"""The built wheel, installed by the ordinary clients, pip on the oldest Python here and uv on the newest.

Packages come from the index that pip is configured for; without one the tests are skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.patience import PATIENCE_S
from tests.support.tiny import write_tiny_llama
from tests.support.wheel import build_wheel

PYTHONS = ("3.11", "3.12")


def pythons() -> list[str]:
    """A working interpreter with venv for each version that is here, by version; skips without any."""
    found = [name for version in PYTHONS if (name := find_python(version))]
    return found or pytest.skip(f"no Python of {', '.join(PYTHONS)} here")


def find_python(version: str) -> str | None:
    """A working interpreter of this version, with venv."""
    names = [f"/usr/bin/python{version}", shutil.which(f"python{version}")]
    names += [str(path) for path in Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}")]
    for name in filter(None, names):
        asked = [name, "-c", "import ensurepip"]
        if shutil.which(name) and subprocess.run(asked, check=False).returncode == 0:
            return name
    return None


def install(command: list[str], **environment: str) -> None:
    """Run an installer; skips when it cannot reach a package index."""
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=280
    )
    unreachable = ("NewConnectionError", "Could not fetch URL", "No matching distribution", "client error")
    if done.returncode and any(words in done.stderr for words in unreachable):
        pytest.skip(f"no package index: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr


def pip_into(folder: Path, *, python: str) -> list[str]:
    """`pip install` into a new environment, by the interpreter's own pip where it has one, which is quicker.

    Bytecode is not made: that takes longer than what is run of it.
    """
    own = [python, "-m", "pip"]
    if subprocess.run([*own, "--version"], capture_output=True, check=False).returncode == 0:
        subprocess.run([python, "-m", "venv", "--without-pip", str(folder)], check=True)
        found = [*own, "--python", str(folder / "bin/python")]
    else:
        subprocess.run([python, "-m", "venv", str(folder)], check=True)
        found = [str(folder / "bin/pip")]
    return [*found, "--disable-pip-version-check", "install", "--quiet", "--no-compile"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built once."""
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@dataclass(frozen=True)
class Tool:
    """An installation; `hint` begins what it says to bring an extra by."""

    folder: Path
    hint: str

    def run(self, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        command = [str(self.folder / "bin" / "tpforge"), *arguments]
        return subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, check=False, timeout=PATIENCE_S
        )


def by_pip(wheel: Path, folder: Path) -> Tool:
    """Into a virtual environment of the oldest Python here."""
    install([*pip_into(folder / "venv", python=pythons()[0]), str(wheel)])
    return Tool(folder / "venv", f"{folder}/venv/bin/python -m pip install ")


def by_uv(wheel: Path, folder: Path) -> Tool:
    """As a tool, of the newest Python here."""
    uv = shutil.which("uv")
    if uv is None:
        install([*pip_into(folder / "uv", python=pythons()[0]), "uv"])
        uv = str(folder / "uv/bin/uv")
    folders = {"UV_TOOL_DIR": str(folder / "tools"), "UV_TOOL_BIN_DIR": str(folder / "bin")}
    install([uv, "tool", "install", "--python", pythons()[-1], str(wheel)], **folders)
    assert (folder / "bin" / "tpforge").exists()
    return Tool(folder / "tools" / "tpforge", f"uv pip install --python {folder}/tools/tpforge ")


@pytest.fixture(scope="module", params=[by_pip, by_uv], ids=["pip", "uv"])
def tool(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Tool:
    """The wheel and what it needs, installed."""
    found: Tool = request.param(wheel, tmp_path_factory.mktemp(request.param.__name__))
    return found


def test_nothing_of_a_common_name_nor_of_gigabytes_is_installed(tool: Tool) -> None:
    (packages,) = tool.folder.glob("lib/python*/site-packages")
    names = {path.name for path in packages.iterdir()}
    assert "tpforge" in names
    assert not names & {"builders", "engines", "scripts", "triton_repo", "torch", "transformers", "pytriton"}
    size = sum(path.stat().st_size for path in packages.rglob("*") if path.is_file())
    assert size < 300e6


def test_it_plans_inspects_and_says_what_converting_needs(tool: Tool, tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "model")
    load = ("--isl", "100", "--osl", "100", "--json")
    planned = tool.run("plan", str(model), "--gpu", "h100-sxm", "--gpus", "2", *load, cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    assert json.loads(planned.stdout)["kind"] == "deployment_plan"
    assert tool.run("inspect", str(model), "--tp", "2", cwd=tmp_path).returncode == 0
    for command in (("convert", str(model), "--tp", "2"), ("verify", "x")):
        refused = tool.run(*command, cwd=tmp_path)
        assert refused.returncode == 3
        assert tool.hint in refused.stderr and "torch==" in refused.stderr
        assert [line[:6] for line in refused.stderr.splitlines()].count("error:") == 1
