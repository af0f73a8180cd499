"""Defaults that are set once: the order of their sources, and that nothing of it is hidden."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.cli.defaults import use_hub_token
from scripts.main import main
from tpforge.errors import UsageError
from tpforge.settings import SETTINGS, all_chosen, chosen, config_file

LOAD = ["--isl", "100", "--osl", "100"]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of the user's file, in a folder of its own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for setting in SETTINGS:
        monkeypatch.delenv(setting.variable, raising=False)
    (tmp_path / "tpforge").mkdir()
    return config_file()


def test_a_variable_is_stronger_than_the_file_and_both_than_what_is_built_in(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (chosen("out").value, chosen("out").origin) == ("out", "built in")
    file.write_text('out = "/srv/out"\ngpu = "h100-sxm"\n')
    assert (chosen("out").value, chosen("out").origin) == ("/srv/out", str(file))
    monkeypatch.setenv("TPFORGE_OUT", "/other")
    assert (chosen("out").value, chosen("out").origin) == ("/other", "TPFORGE_OUT")
    assert chosen("gpu").value == "h100-sxm"
    assert chosen("container").value is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('gpus = "x"', "gpus: is no setting; did you mean gpu?"),
        ('colour = "x"', "colour: is no setting; known are out, gpu"),
        ("gpu = 3", 'gpu: expected a text, as gpu = "..."'),
        ('out = ""', 'out: expected a text, as out = "..."'),
        ("gpu = ", "cannot be read as TOML"),
    ],
)
def test_a_wrong_file_is_refused_by_its_name_and_key(
    file: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        all_chosen()
    assert str(file) in str(caught.value) and said in str(caught.value)
    assert main(["plan", "llama-3.1-8b", *LOAD]) == 2
    assert said in capsys.readouterr().err


def test_plan_takes_the_gpu_that_was_set_and_says_so(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "llama-3.1-8b", *LOAD]) == 2
    assert "Missing option '--gpu'" in capsys.readouterr().err
    file.write_text('gpu = "h100-sxm"\n')
    assert main(["plan", "llama-3.1-8b", *LOAD]) == 0
    said = capsys.readouterr()
    assert f"note: --gpu h100-sxm ({file})" in said.err
    assert "H100 SXM" in said.out
    for words in (["--gpu", "l40s"], ["--gpu=l40s"]):
        assert main(["plan", "llama-3.1-8b", *LOAD, *words]) == 0
        said = capsys.readouterr()
        assert "note: --gpu" not in said.err and "L40S" in said.out


def test_a_container_is_taken_by_the_builds_that_run_in_one_alone(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TPFORGE_CONTAINER", "podman")
    main(["build", "/nothing", "--runtime", "tensorrt", "--dry-run"])
    assert "note: --container podman (TPFORGE_CONTAINER)" in capsys.readouterr().err
    main(["build", "/nothing", "--dry-run"])
    assert "--container" not in capsys.readouterr().err


def test_config_shows_every_setting_and_where_it_came_from(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text('gpu = "a10"\n')
    monkeypatch.setenv("TPFORGE_CONTAINER", "docker")
    assert main(["config", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["file"] == str(file)
    assert {name: (one["value"], one["origin"]) for name, one in found["settings"].items()} == {
        "out": ("out", "built in"),
        "gpu": ("a10", str(file)),
        "container": ("docker", "TPFORGE_CONTAINER"),
        "hub_token_variable": (None, "built in"),
    }


def test_the_token_is_taken_from_the_variable_that_was_named_and_never_shown(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(os.environ, "HF_TOKEN", "")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setenv("TEAM_TOKEN", "hf_secret")
    file.write_text('hub_token_variable = "TEAM_TOKEN"\n')
    use_hub_token()
    assert os.environ["HF_TOKEN"] == "hf_secret"
    assert main(["config"]) == 0
    said = capsys.readouterr()
    assert "TEAM_TOKEN" in said.out and "hf_secret" not in said.out + said.err


def test_outputs_lie_under_the_folder_that_was_set(file: Path, tmp_path: Path) -> None:
    file.write_text(f'out = "{tmp_path}/mine"\n')
    command = [sys.executable, "-m", "tpforge", "engines", "list"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
    assert done.stderr == f"no engines under {tmp_path}/mine/\n"


def test_a_variable_that_is_no_setting_is_said_with_what_is_near(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TPFORGE_GPUS", "h100-sxm")
    monkeypatch.setenv("TPFORGE_SERVER", "a mark")
    assert main(["config", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["unknown_variables"] == [
        "TPFORGE_GPUS: is no setting; did you mean TPFORGE_GPU?"
    ]
    assert "warning: TPFORGE_GPUS: is no setting" in said.err
