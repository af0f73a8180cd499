"""tpforge.extras: an extra is what pyproject.toml lists, and the command fits the installation."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest

from scripts.main import main
from tpforge import extras
from tpforge.errors import EnvironmentUnusable
from tpforge.extras import EXTRAS, extra_of, install_command, install_packages, require_extra
from tpforge.trtllm.versions import DEFAULT_RELEASE

PROJECT = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OPTIONAL = {name: lines for name, lines in PROJECT["optional-dependencies"].items() if name != "dev"}
MODULES = {"lm-eval": "lm_eval", "nvidia-ml-py": "pynvml", "nvidia-pytriton": "pytriton"}
"""Modules whose distribution has another name."""


def names(extra: str) -> set[str]:
    bare = (re.split(r"[\s\[<>=!~;]", line)[0] for line in OPTIONAL[extra])
    return {MODULES.get(name, name.replace("-", "_")) for name in bare}


def test_every_extra_says_what_it_is_for() -> None:
    assert set(EXTRAS) == set(OPTIONAL)


@pytest.mark.parametrize("extra", sorted(OPTIONAL))
def test_the_modules_that_show_an_extra_are_brought_by_it(extra: str) -> None:
    assert set(extras._MODULES[extra]) <= names(extra)


def test_the_extra_of_tensorrt_llm_is_pinned_to_the_release_that_the_tables_take_by_default() -> None:
    assert OPTIONAL["tensorrt-llm"] == [f"tensorrt-llm=={DEFAULT_RELEASE}"]


def test_a_missing_module_is_traced_to_the_smallest_extra_that_brings_it() -> None:
    for module, extra in extras._BROUGHT_BY.items():
        assert module in names(extra)
        assert len(OPTIONAL[extra]) == min(len(OPTIONAL[one]) for one in OPTIONAL if module in names(one))
    assert extra_of("torch.nn") == "convert"
    assert extra_of("nosuch") is None


@pytest.mark.parametrize(
    ("marker", "command"),
    [
        ("pipx_metadata.json", "pipx inject tool 'a>=1' b"),
        ("uv-receipt.toml", "uv pip install --python {prefix} 'a>=1' b"),
        (None, f"{sys.executable} -m pip install 'a>=1' b"),
    ],
)
def test_the_command_is_that_of_what_made_the_installation(
    tmp_path: Path, marker: str | None, command: str
) -> None:
    prefix = tmp_path / "tool"
    prefix.mkdir()
    if marker:
        (prefix / marker).touch()
    assert install_packages(["a>=1", "b"], prefix=prefix) == command.format(prefix=prefix)


def test_a_checkout_is_completed_by_make_setup_and_else_by_what_the_metadata_lists(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert install_command("convert") == "make setup"
    monkeypatch.setattr(extras, "is_checkout", lambda: False)
    monkeypatch.setattr(
        "importlib.metadata.requires",
        lambda _name: ["click>=8.1", "torch==2.13.0; extra == 'convert'", 'scipy; extra == "dev"'],
    )
    assert install_command("convert").endswith(" torch==2.13.0")
    monkeypatch.setattr("importlib.metadata.requires", lambda _name: [])
    assert install_command("convert").endswith(" 'tpforge[convert]'")


def test_an_extra_that_is_missing_is_refused_with_the_reason_and_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda _module: None)
    with pytest.raises(EnvironmentUnusable) as caught:
        require_extra("server", needed_by="serving")
    assert str(caught.value) == (
        "serving needs the extra `server` (the Triton server on this host), which is not installed; "
        "install it with: make setup"
    )


@pytest.mark.parametrize(("module", "status"), [("torch", 3), ("nosuch", 1)])
def test_only_a_module_of_an_extra_that_is_missing_is_no_bug(
    module: str, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise ModuleNotFoundError(f"No module named '{module}'", name=module)

    monkeypatch.setattr("scripts.flows.serve.stop_servers", fail)
    assert main(["stop"]) == status
    error = capsys.readouterr().err
    assert ("the extra `convert`" in error) == (status == 3)
    assert len(error.splitlines()) == 1
