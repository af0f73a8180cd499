"""The wheel: what lies at the top of site-packages, and that every light command runs without torch.

The judge of what a light installation has is the metadata of the installed distributions: see
tests.support.wheel.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from tests.support.ports import free_ports
from tests.support.runs import level_of, run_of
from tests.support.tiny_engine import write_tiny_engine
from tests.support.wheel import ROOT, LightPython, build_wheel, light_python
from tpforge.measure.runs.run import write_run
from tpforge.outputs.deciding_code import PACKAGES, code_key

NOBODY = "localhost:1"


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> LightPython:
    return light_python(tmp_path_factory.mktemp("light"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A current directory with a model, an engine under out/ and two runs."""
    folder = tmp_path_factory.mktemp("place")
    engine, _, _ = write_tiny_engine(folder, tp_size=2)
    (folder / "out" / "tiny").mkdir(parents=True)
    engine.rename(folder / "out" / "tiny" / "engine")
    for tp in (1, 2):
        level, samples = level_of(((0.3, 0.2), (0.3, 0.2), (0.3, 0.2)), copies=20)
        name = f"run{tp}"
        write_run(folder / name, run_of(name, [level], engine={"tp": tp, "name": f"m-tp{tp}"}), samples)
    return folder


def test_the_wheel_puts_tpforge_alone_at_the_top_and_leaves_nothing_out(tmp_path: Path) -> None:
    wheel = build_wheel(tmp_path)
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0].split("-")[0] for name in names} == {"tpforge"}
    files = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    files = {name for name in files if not name.startswith("scripts/dev/")}
    carried = {name.removeprefix("tpforge/_parts/") for name in names if "dist-info" not in name}
    assert carried == files


def test_the_wheel_names_the_program_and_every_extra(tmp_path: Path) -> None:
    with zipfile.ZipFile(build_wheel(tmp_path)) as archive:
        (folder,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        entry = archive.read(f"{folder}/entry_points.txt").decode()
        metadata = archive.read(f"{folder}/METADATA").decode()
    assert entry.split() == ["[console_scripts]", "tpforge", "=", "tpforge.__main__:main"]
    lines = [line for line in metadata.splitlines() if line.startswith("Requires-Dist")]
    needs = [line.split()[1] for line in lines]
    light = [line.split()[1] for line in lines if "extra" not in line]
    assert {"torch==2.13.0;", "transformers>=5;", "nvidia-pytriton==0.7.0;"} <= set(needs)
    assert not [name for name in light if name.startswith(("torch", "transformers", "nvidia"))]


@pytest.mark.parametrize(
    "command",
    [
        ["plan", "source", "--gpu", "h100-sxm", "--gpus", "2", "--isl", "100", "--osl", "100"],
        ["gpus"],
        ["gpus", "--model", "source", "--isl", "100", "--osl", "100"],
        ["inspect", "source", "--tp", "2"],
        ["convert", "source", "--tp", "2", "--dry-run"],
        ["build", "source", "--tp", "2", "--runtime", "tensorrt", "--dry-run"],
        ["render", "tiny", "--force"],
        ["deploy", "tiny", "--target", "compose", "--force"],
        ["deploy", "tiny", "--target", "slurm", "--force", "--partition", "gpu"],
        ["compare", "run1", "run2"],
        ["engines", "list"],
        ["engines", "show", "tiny"],
        ["engines", "verify", "tiny"],
        ["versions"],
        ["formats"],
        ["doctor"],
    ],
    ids=" ".join,
)
def test_a_light_command_needs_neither_torch_nor_transformers(
    light: LightPython, place: Path, command: list[str]
) -> None:
    done = light.run(*command, cwd=place)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize(
    "command",
    [
        ["smoke", NOBODY],
        ["bench", NOBODY, "--engine", "tiny"],
        ["generate", "hello", "--url", NOBODY],
    ],
    ids=" ".join,
)
def test_a_light_client_gets_as_far_as_the_server(
    light: LightPython, place: Path, command: list[str]
) -> None:
    done = light.run(*command, cwd=place)
    assert done.returncode == 3
    assert "nothing answers there" in done.stderr


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (["convert", "source", "--tp", "2"], "convert"),
        (["build", "source", "--tp", "2"], "convert"),
        (["verify", "tiny"], "convert"),
        (["evaluate", "tiny"], "convert"),
        (["demo"], "convert"),
        (["inspect", "source", "--deep"], "convert"),
        (["generate", "--chat", "hello", "--engine", "tiny", "--url", NOBODY], "chat"),
        (["serve", "tiny"], "server"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_what_lacks_its_extra_says_so_in_one_line_with_the_command_that_brings_it(
    light: LightPython, place: Path, command: list[str], extra: str
) -> None:
    brings = {"convert": "'torch==2.13.0'", "chat": "'transformers>=5'", "server": "nvidia-pytriton==0.7.0"}
    before = sorted(place.rglob("*"))
    ports = ["--port-base", str(free_ports().http)] if command[0] == "serve" else []
    done = light.run(*command, *ports, cwd=place)
    assert done.returncode == 3
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and done.stderr.splitlines()[-1] == errors[0]
    assert " -m pip install " in errors[0] and brings[extra].strip("'") in errors[0]
    if extra != "server":
        assert f"the extra `{extra}`" in errors[0]
        assert sorted(place.rglob("*")) == before, "nothing was made for nothing"


def test_another_builders_in_the_current_directory_is_not_taken(light: LightPython, tmp_path: Path) -> None:
    for name in ("builders", "engines", "scripts", "triton_repo"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('imported')")
    done = light.run("formats", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_an_engine_is_the_same_for_the_wheel_and_the_checkout(light: LightPython) -> None:
    """The code that decides it has one key, wherever it lies."""
    for module in ("scripts.flows.folders.engine_folder", "triton_repo.render.repository"):
        assert code_key(module, home=light.site) == code_key(module)


def test_json_of_the_wheel_is_that_of_the_checkout(light: LightPython, place: Path) -> None:
    done = light.run("inspect", "source", "--tp", "2", "--json", cwd=place)
    assert json.loads(done.stdout)["kind"] == "inspection"
