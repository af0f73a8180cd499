"""A release of TensorRT-LLM is read alike wherever it is written: options, recipes, a host's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.runtime_choice import choose_runtime
from scripts.main import main
from tests.support.hosts import host_of
from tpforge.errors import UsageError
from tpforge.recipe import EngineRecipe, parse_recipe

COMMANDS = [
    ["doctor", "--trtllm"],
    ["versions", "--trtllm"],
    ["formats", "fp8", "--trtllm"],
    ["plan", "llama-3.1-8b", "--gpu", "h100-sxm", "--trtllm"],
    ["build", "model", "--runtime", "pytorch", "--trtllm"],
    ["build", "model", "--runtime", "tensorrt", "--trtllm"],
    ["build", "model", "--trtllm"],
    ["migrate", "engine", "--to"],
    ["migrate", "llm.yaml", "--from"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_line_of_releases_is_refused_by_every_option_with_a_full_one(
    words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*words, "1.3"]) == 2
    assert "1.3: is a line of releases; give one in full, as 1.3.0rc29" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_option_takes_the_spelling_of_a_tag(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["versions", "--trtllm", "v1.3.0-RC29"]) == 0
    assert "1.3.0rc29" in capsys.readouterr().out


def test_a_recipe_takes_the_spellings_that_options_take() -> None:
    assert EngineRecipe(model="demo", trtllm="v1.2.1").trtllm == "1.2.1"
    text = 'model = "demo"\nruntime = "pytorch"\ntrtllm = "{}"\n'
    assert parse_recipe(text.format("1.3.0-rc29"), path=Path("r.toml")).trtllm == "1.3.0rc29"
    with pytest.raises(
        UsageError, match=r"r.toml: the recipe is wrong:\n  trtllm: TensorRT-LLM 1.4: is a line"
    ):
        parse_recipe(text.format("1.4"), path=Path("r.toml"))
    with pytest.raises(UsageError, match="trtllm: TensorRT-LLM 'latest': is no version"):
        parse_recipe(text.format("latest"), path=Path("r.toml"))


def test_the_installed_release_is_known_by_another_spelling() -> None:
    assert choose_runtime(host_of(), trtllm="v1.2.1") == choose_runtime(host_of(), trtllm="1.2.1")
    with pytest.raises(UsageError, match="is a line of releases"):
        choose_runtime(host_of(), trtllm="1.2")
