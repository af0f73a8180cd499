"""The Makefile lists itself, and its setup is described by the files it installs from."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LOCKED_EXTRAS = ("chat", "convert", "server", "dev")
"""What `make setup` installs besides the light program."""
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def test_bare_make_lists_every_target_with_one_line() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {name for name in re.findall(r"^([a-z-]+):", text, flags=re.MULTILINE) if name != "ready"}
    phony = set(re.search(r"^\.PHONY: (.*)$", text, flags=re.MULTILINE)[1].split())  # type: ignore[index]
    listed = subprocess.check_output(["make", "-s", "-C", str(ROOT)], text=True).splitlines()
    assert {line.split()[1] for line in listed} == targets
    assert phony == targets | {"ready"}
    assert all(len(line) <= 110 for line in listed)


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["engine", "TP=2", "MODEL=/models/x"], "tpforge build /models/x --tp 2 --pp 1 --runtime auto"),
        (["engine", "RUNTIME=pytorch"], "tpforge build demo --tp 4 --pp 1 --runtime pytorch"),
        (["engine", "NAME=x"], "tpforge build demo --tp 4 --pp 1 --runtime auto --name x"),
        (["verify", "NAME=x"], "tpforge verify out/x/engine"),
        (["serve"], "tpforge serve --detach"),
        (["smoke", "URL=localhost:9001"], "tpforge smoke localhost:9001"),
        (["bench", "ARGS=--rate 2"], "tpforge bench --rate 2"),
    ],
)
def test_a_target_calls_the_command_of_its_name(arguments: list[str], command: str) -> None:
    said = subprocess.check_output(["make", "-n", "-C", str(ROOT), *arguments], text=True)
    assert [" ".join(line.split()) for line in said.splitlines()].count(f".venv/bin/{command}") == 1


LOCKS = sorted(
    str(path.relative_to(ROOT))
    for folder in (ROOT, ROOT / "requirements", ROOT / "triton_repo" / "openai")
    for path in folder.glob("*.lock")
)


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_has_a_hash_for_every_package_and_no_index_address(name: str) -> None:
    lock = (ROOT / name).read_text(encoding="utf-8")
    entries = re.split(r"^(?=[a-z0-9])", lock, flags=re.MULTILINE)[1:]
    assert len(entries) > 15
    assert [entry.splitlines()[0] for entry in entries if "--hash=sha256:" not in entry] == []
    assert not re.search(r"https?://|--index|--find-links|file:", lock)


def test_every_list_of_requirements_has_a_lock_that_holds_it() -> None:
    tracked = subprocess.check_output(["git", "-C", str(ROOT), "ls-files", "*requirements*"], text=True)
    names = tracked.split()
    assert [name for name in names if not name.endswith((".in", ".lock"))] == []
    assert {name.replace(".in", ".lock") for name in names if name.endswith(".in")} == set(LOCKS)
    for name in LOCKS:
        locked = dict(
            re.findall(r"^([a-z0-9._-]+)(?:\[.*\])?==(\S+)", (ROOT / name).read_text(), re.MULTILINE)
        )
        listed = (ROOT / name.replace(".lock", ".in")).read_text()
        pinned = re.findall(r"^([a-z0-9._-]+)(?:\[.*\])?==([^\s;]+)", listed, re.MULTILINE)
        assert {one: locked.get(one) for one, _ in pinned} == dict(pinned), name


def test_the_checkers_stand_beside_the_same_versions_as_the_program() -> None:
    both = [
        dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE))
        for name in ("requirements.lock", "requirements/manifests.lock")
    ]
    shared = both[0].keys() & both[1].keys()
    assert len(shared) > 10
    assert {name: both[1][name] for name in shared} == {name: both[0][name] for name in shared}


def test_the_image_stands_on_another_by_digest_and_copies_by_digest() -> None:
    text = (ROOT / "triton_repo/deploy/templates/image/Dockerfile").read_text(encoding="utf-8")
    images = re.findall(r"^(?:FROM |COPY --from=)(\S+)", text, flags=re.MULTILINE)
    assert len(images) == 2
    assert [one for one in images if not re.search(r":[\w.-]+@sha256:[0-9a-f]{64}$", one)] == []


def test_the_lock_holds_what_is_needed_but_torch_and_its_gpu_packages() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    locked = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", lock, flags=re.MULTILINE))
    needed = re.findall(r"^([a-zA-Z0-9_-]+)", (ROOT / "requirements.in").read_text(), flags=re.MULTILINE)
    assert {name.lower().replace("_", "-") for name in needed} <= set(locked)
    assert [name for name in locked if name == "torch" or name.startswith(("nvidia-cu", "cuda"))] == []
    assert locked["numpy"].startswith("1.")


def test_every_dependency_of_the_project_is_a_direct_need_of_the_lock() -> None:
    def bare(requirement: str) -> str:
        return re.split(r"[\s\[<>=]", requirement)[0].lower().replace("_", "-")

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(line for name in LOCKED_EXTRAS for line in optional[name])]
    lines = (ROOT / "requirements.in").read_text(encoding="utf-8").splitlines()
    stated = {bare(line) for line in lines if line and not line.startswith("#")}
    assert {bare(requirement) for requirement in wanted} - stated == {"torch"}


def test_shell_scripts_are_strict_and_sound() -> None:
    for script in [*sorted((ROOT / "scripts").glob("*.sh")), ROOT / ".ci" / "run"]:
        text = script.read_text(encoding="utf-8")
        assert text.startswith("#!/usr/bin/env bash\n")
        assert "\nset -euo pipefail\n" in text
        assert script.stat().st_mode & 0o111
        subprocess.run(["bash", "-n", str(script)], check=True)
