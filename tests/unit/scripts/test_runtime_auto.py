"""`--runtime auto` in build, a recipe and doctor: what is chosen is built, said, and kept in engine.json."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from engines.host import Gpu, Host
from engines.store import read_manifest
from scripts.main import main
from tests.support.tiny import write_tiny_llama

GPU = Gpu(0, "H100", "GPU-0", 80 << 30, 0, 90)
SERVING = Host(gpus=(GPU, replace(GPU, index=1)), packages=(("tensorrt_llm", "1.4.0rc1"),))


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_tiny_llama(tmp_path / "model")


def on(monkeypatch: pytest.MonkeyPatch, host: Host) -> None:
    monkeypatch.setattr("scripts.flows.runtime_choice.find_host", lambda: host)
    monkeypatch.setattr("scripts.flows.doctor.find_host", lambda: host)
    monkeypatch.setattr("engines.host.find_host", lambda: host)


def test_a_host_without_a_gpu_builds_for_the_reference_runtime_and_says_why(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on(monkeypatch, Host())
    assert main(["build", str(model), "--tp", "2", "--name", "x"]) == 0
    said = capsys.readouterr().err
    assert "runtime reference: this host has no NVIDIA GPU; runtime tensorrt or pytorch prepares" in said
    manifest = read_manifest(Path("out/x/engine"))
    assert (manifest.runtime, manifest.command[-2:]) == ("reference", ("--runtime", "reference"))
    assert (manifest.runtime_because or "").startswith("runtime reference: this host has no NVIDIA GPU")
    assert main(["build", str(model), "--tp", "2", "--name", "x", "--runtime", "reference"]) == 0
    assert "unchanged" in capsys.readouterr().err


def test_a_host_with_tensorrt_llm_builds_what_that_release_has(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on(monkeypatch, SERVING)
    assert main(["build", str(model), "--tp", "2", "--name", "x"]) == 0
    manifest = read_manifest(Path("out/x/engine"))
    assert manifest.runtime == "pytorch" and manifest.llm_api is not None
    assert (manifest.llm_api.trtllm, manifest.llm_api.sm) == ("1.4.0rc1", 90)
    assert "runtime pytorch: 2 NVIDIA GPUs and TensorRT-LLM 1.4.0rc1, installed" in capsys.readouterr().err


def test_an_option_of_another_runtime_than_the_chosen_one_is_refused(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on(monkeypatch, Host())
    assert main(["build", str(model), "--llm-arg", "enable_lora=true"]) == 2
    assert "--llm-arg: is for --runtime pytorch, and this is reference" in capsys.readouterr().err
    assert main(["build", str(model), "--trtllm", "1.4.0rc1"]) == 3
    assert "trtllm 1.4.0rc1: this host has no NVIDIA GPU" in capsys.readouterr().err


def test_a_recipe_without_a_runtime_and_doctor_choose_alike(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on(monkeypatch, SERVING)
    Path("recipe.toml").write_text(f'model = "{model}"\ntp = 2\nname = "x"\n')
    assert main(["up", "recipe.toml", "--dry-run"]) == 0
    line = capsys.readouterr().err.splitlines()[0]
    assert main(["doctor", "--json"]) == 0
    auto = json.loads(capsys.readouterr().out)["auto"]
    assert line == f"runtime {auto['runtime']}: {auto['because']}; {auto['otherwise']}"
    Path("recipe.toml").write_text(f'model = "{model}"\ntp = 2\nname = "x"\nruntime = "reference"\n')
    assert main(["up", "recipe.toml", "--dry-run"]) == 0
    assert "TensorRT-LLM" not in capsys.readouterr().err
