"""What is given in another thing's place is named as what it is, by every command that opens one."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.main import main
from tests.support.stores import write_engine

ENGINE = "is an engine folder"
AROUND = "is the folder around an engine"
REPOSITORY = "is a model repository of Triton"
CHECKPOINT = "is a Hugging Face checkpoint"
CONVERTED = "is a converted checkpoint of TensorRT-LLM"


@pytest.fixture
def things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one thing of each kind in it, and no server."""
    write_engine(tmp_path / "out" / "tiny" / "engine")
    repository = tmp_path / "out" / "tiny" / "repository"
    (repository / "ensemble").mkdir(parents=True)
    (repository / "ensemble" / "config.pbtxt").write_text("")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (tmp_path / "model" / "model.safetensors").write_bytes(b"")
    (tmp_path / "nothing").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", ["inspect", "convert", "build", "quantize --format fp8 --out q", "plan"])
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("out/tiny/engine", ENGINE),
        ("out/tiny", AROUND),
        ("out/tiny/repository", REPOSITORY),
        ("out/tiny/engine/checkpoint", CONVERTED),
        ("nothing", "found no config.json"),
    ],
)
@pytest.mark.usefixtures("things")
def test_no_model(command: str, given: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    words_of = [*command.split(), given, *(["--gpu", "h100-sxm"] if command == "plan" else [])]
    assert main(words_of) == 4
    assert f"error: {given}: {words}; expected a Hugging Face directory" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["verify", "render", "serve", "engines show", "deploy --target compose"])
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("out/tiny/repository", f"{REPOSITORY}; expected an engine folder, such as out/tiny/engine"),
        ("model", f"{CHECKPOINT}, and no engine folder; make one with: tpforge build model --tp N"),
        (
            "nothing",
            "holds no engine.json, so it is no engine folder; make one with: tpforge build MODEL --tp N",
        ),
    ],
)
@pytest.mark.usefixtures("things")
def test_no_engine(command: str, given: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), given]) == 4
    assert f"error: {given}: {words}" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["logs", "stop", "status", "promote"])
@pytest.mark.parametrize(("given", "words"), [("model", CHECKPOINT), ("nothing", "no such engine")])
@pytest.mark.usefixtures("things")
def test_no_engine_that_could_be_served(
    command: str, given: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, given]) == 2
    assert f"error: {given}: {words}" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["compare", "decide --recommend a --fallback b --because c"])
@pytest.mark.parametrize(
    ("given", "words"), [("out/tiny/engine", f"{ENGINE}, and no run"), ("nothing", "no such run")]
)
@pytest.mark.usefixtures("things")
def test_no_run(command: str, given: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), given, given]) == 2
    assert f"error: {given}: {words}; there are none under out/" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("out/tiny/engine", f"{ENGINE}; expected a recipe, a .toml file"),
        ("nothing", "is a folder; expected a recipe, a .toml file"),
        ("nowhere.toml", "no such recipe"),
    ],
)
@pytest.mark.usefixtures("things")
def test_no_recipe(given: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up", given]) == 2
    assert f"error: {given}: {words}" in capsys.readouterr().err
    assert main(["bench", "--sweep", given]) == 2
    assert f"error: {given}: {words}" in capsys.readouterr().err
