"""A file of --describe in every command that opens a model: one architecture that no table has, all the way.

TensorRT-LLM is a stand-in that registers it.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from engines.store import read_manifest
from scripts.main import main
from tests.support.standin_tensorrt_llm import write_standin
from tests.unit.builders.test_declared_models import write_model
from tpforge.trtllm.architectures import advice_on_unknown, architecture_support

LIKE_SMOLLM3 = 'like = "SmolLM3ForCausalLM"\n'


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A SmolLM3 by transformers, that calls itself something else."""
    return write_model(tmp_path / "model", "SmolLM3ForCausalLM", architectures=["WarpForCausalLM"])


@pytest.fixture
def sizes(tmp_path: Path) -> Path:
    (tmp_path / "sizes.toml").write_text(LIKE_SMOLLM3)
    return tmp_path / "sizes.toml"


@pytest.fixture
def learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT-LLM 1.9.9, which registers WarpForCausalLM, learned."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert main(["versions", "--learn", "--python", str(write_standin(tmp_path / "site").python)]) == 0


def build(model: Path, *options: str) -> int:
    words = ["build", str(model), "--runtime", "pytorch", "--trtllm", "1.9.9", "--sm", "90"]
    return main([*words, "--max-seq-len", "64", "--out", str(model.parent / "engine"), *options])


def test_inspect_takes_its_sizes_and_compares_them_with_the_headers(
    model: Path, sizes: Path, learned: None, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["inspect", str(model), "--describe", str(sizes), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    tensors = load_file(model / "model.safetensors").values()
    assert found["num_parameters"] == sum(one.numel() for one in tensors)
    assert {one["runtime"]: one["serves"] for one in found["runtimes"]}["pytorch"] is True
    assert "1.9.9 and later, by what was learned from it" in str(found["runtimes"])

    sizes.write_text(LIKE_SMOLLM3 + "[config]\nintermediate_size = 256\n")
    assert main(["inspect", str(model), "--describe", str(sizes)]) == 4
    assert "config.json implies" in capsys.readouterr().err


def test_build_takes_them_and_engine_json_keeps_what_was_said(
    model: Path, sizes: Path, learned: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(model, "--describe", str(sizes), "--tp", "2") == 0
    manifest = read_manifest(model.parent / "engine")
    assert manifest.model.architecture == "WarpForCausalLM"
    assert (manifest.model.hidden_size, manifest.model.num_layers) == (64, 4)
    assert manifest.llm_api is not None
    assert manifest.llm_api.described == {"like": "SmolLM3ForCausalLM"}
    assert manifest.command[manifest.command.index("--describe") + 1] == str(sizes)
    assert build(model, "--describe", str(sizes), "--tp", "3", "--force") == 4
    assert "4 attention heads" in capsys.readouterr().err


def test_what_is_wrong_with_the_tensors_is_said_by_build_too(
    model: Path, sizes: Path, learned: None, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = load_file(model / "model.safetensors")
    first = "model.embed_tokens.weight"
    save_file({first: tensors[first]}, model / "model.safetensors")
    assert build(model, "--describe", str(sizes)) == 4
    assert "the tensors hold 18,432 parameters" in capsys.readouterr().err


def test_a_class_that_no_release_is_known_to_register_is_not_built_whatever_its_sizes(
    model: Path, sizes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "empty"))
    words = ["build", str(model), "--runtime", "pytorch", "--trtllm", "1.4.0rc1", "--sm", "90"]
    assert main([*words, "--out", str(tmp_path / "engine"), "--describe", str(sizes)]) == 4
    assert "upstream lists no WarpForCausalLM for the LLM API" in capsys.readouterr().err


def test_plan_and_gpus_take_them_and_the_recipe_of_a_plan_is_built(
    model: Path, sizes: Path, learned: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = ["--describe", str(sizes), "--isl", "16", "--osl", "16"]
    recipe = tmp_path / "recipes" / "recipe.toml"
    recipe.parent.mkdir()
    assert main(["plan", str(model), "--gpu", "h100-sxm", "--recipe", str(recipe), *said]) == 0
    assert 'describe = "../sizes.toml"' in recipe.read_text()
    assert main(["gpus", "--model", str(model), "--concurrency", "4", *said]) == 0
    assert main(["gpus", "--model", str(model), "--concurrency", "4", *said[2:]]) == 4
    assert "state its sizes in a file for --describe" in capsys.readouterr().err


def test_what_a_learned_release_registers_is_known_where_the_table_has_no_row(learned: None) -> None:
    (found,) = architecture_support("WarpForCausalLM")
    assert (found.runtime, found.first) == ("pytorch", "1.9.9")
    assert "the pytorch runtime (1.9.9 and later, by what was learned from it)" in advice_on_unknown(
        "WarpForCausalLM"
    )
    assert architecture_support("LlamaForCausalLM")[0].source != "tpforge versions --learn"


def test_a_dense_model_of_a_learned_class_is_built_by_what_its_config_declares(
    model: Path, learned: None
) -> None:
    assert build(model) == 0
    manifest = read_manifest(model.parent / "engine")
    assert (manifest.model.architecture, manifest.model.hidden_size) == ("WarpForCausalLM", 64)
