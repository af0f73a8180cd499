"""Sizes that a user states: an architecture that is in no table is planned like one that is, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builders.blueprint import find_blueprint
from scripts.main import main
from tpforge.errors import InputRefused

CONFIG = {
    "architectures": ["OwnMoeForCausalLM"],
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "moe_intermediate_size": 32,
    "num_experts_per_tok": 2,
    "vocab_size": 288,
    "max_position_embeddings": 4096,
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path / "model"


def described(folder: Path, text: str) -> Path:
    (folder / "sizes.toml").write_text(text)
    return folder / "sizes.toml"


def test_a_described_model_has_the_blocks_of_the_one_it_is_like(model: Path, tmp_path: Path) -> None:
    file = described(tmp_path, 'like = "Qwen3MoeForCausalLM"\n[sizes]\nexperts = 8\n')
    blueprint = find_blueprint(str(model), describe=file)
    attention = 2 * 64 * 64 + 2 * 32 * 64 + 2 * 16
    experts = 8 * 3 * 32 * 64 + 8 * 64
    assert blueprint.num_parameters == 4 * (attention + experts + 2 * 64) + 2 * 288 * 64 + 64
    assert (blueprint.model.architecture, blueprint.runtimes) == ("OwnMoeForCausalLM", ("pytorch",))


def test_without_a_description_it_is_refused_with_the_advice(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(model), "--gpu", "h100-sxm"]) == 4
    said = capsys.readouterr().err
    assert "the sizes of OwnMoeForCausalLM are in no table" in said
    assert "TensorRT-LLM lists it for no runtime" in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('like = "OwnMoeForCausalLM"', "the sizes of OwnMoeForCausalLM are in no table"),
        ('like = "Qwen3MoeForCausalLM"', "found no num_experts"),
        (
            'like = "Qwen3MoeForCausalLM"\n[sizes]\nexpert_count = 8',
            r"sizes\.expert_count is none of the sizes",
        ),
        ('like = "Qwen3MoeForCausalLM"\n[sizes]\nexperts = -8', "sizes are not negative, found experts = -8"),
        ("like = 3", "expected like = CLASS"),
        ('like = "Qwen3MoeForCausalLM"\nlayers = 3', "layers"),
        ("like =", "cannot be read"),
    ],
)
def test_a_description_that_says_nothing_sound_is_refused(
    model: Path, tmp_path: Path, text: str, words: str
) -> None:
    with pytest.raises(InputRefused, match=words):
        find_blueprint(str(model), describe=described(tmp_path, text))


def test_keys_of_the_description_stand_in_for_those_of_config_json(model: Path, tmp_path: Path) -> None:
    text = 'like = "Qwen3MoeForCausalLM"\n[sizes]\nexperts = 8\n[config]\ndecoder_sparse_step = 2\n'
    dense = text + "intermediate_size = 128\n"
    found = find_blueprint(str(model), describe=described(tmp_path, dense)).model
    assert found.moe is not None
    assert found.moe.layers == (False, True, False, True)
