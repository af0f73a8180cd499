"""Configs that say two things, or something that their class passes over: refused, or said in a note."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from builders.audit.survey import Survey, survey
from builders.sources import locate
from tests.support.families.changed_configs import reading
from tests.support.published.configs import PUBLISHED
from tests.support.published.older import OLDER
from tests.support.tiny import write_tiny_llama


def surveyed(folder: Path, **changes: Any) -> Survey:
    write_tiny_llama(folder)
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    return survey(locate(str(folder)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"model_type": "mistral", "sliding_window": 320},
            "model_type: found 'mistral', which is MistralConfig, and architectures name",
        ),
        (
            {"torch_dtype": "float16", "dtype": "bfloat16"},
            "dtype: found 'bfloat16', and torch_dtype 'float16'",
        ),
        ({"sliding_window": 0, "model_type": "mistral", "architectures": ["MistralForCausalLM"]}, "found 0"),
        ({"model_type": "smollm3"}, "model_type: found 'smollm3', which is another class, and architectures"),
        ({"model_type": "internlm3"}, "model_type: found 'internlm3', which is another class"),
        ({"per_layer_config": {"1": {"rms_norm_eps": 0.5}}}, "per_layer_config: found {'1'"),
        ({"quantization_config": None, "compression_config": {"quant_method": "hqq"}}, "'hqq' is not read"),
    ],
)
def test_a_config_that_says_two_things_is_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    assert any(words in one for one in surveyed(tmp_path / "model", **changes).problems)


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LENGTH = "original_max_position_embeddings"


@pytest.mark.parametrize("beside", [32, 512])
def test_an_original_length_beside_the_scaling_is_what_transformers_5_takes(
    tmp_path: Path, beside: int
) -> None:
    rotary = [
        LlamaRotaryEmbedding(LlamaConfig(**{**stated, "rope_scaling": {**YARN, LENGTH: within}}))
        for stated, within in (({LENGTH: beside}, 64), ({}, beside))
    ]
    assert torch.equal(rotary[0].inv_freq, rotary[1].inv_freq)
    found = surveyed(tmp_path / "model", **{LENGTH: beside, "rope_scaling": YARN})
    assert any(f"{LENGTH}: found {beside}, and 64 in the scaling" in one for one in found.problems)


@pytest.mark.parametrize("kind", ["linear", "dynamic", "yarn"])
def test_an_original_length_that_is_stated_twice_or_without_effect_is_no_matter(
    tmp_path: Path, kind: str
) -> None:
    scaling = YARN if kind == "yarn" else {"rope_type": kind, "factor": 4.0}
    found = surveyed(tmp_path / "model", **{LENGTH: 64, "rope_scaling": scaling})
    assert found.problems == [] and not found.notes


def test_a_base_within_the_scaling_is_not_passed_over(tmp_path: Path) -> None:
    scaling = {"rope_type": "linear", "factor": 4.0, "rope_theta": 777.0}
    found = surveyed(tmp_path / "model", rope_theta=10000.0, rope_scaling=scaling)
    assert any("rope_theta: found 10000.0, but rope_scaling has 777.0" in one for one in found.problems)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rope_theta": 1, "rope_scaling": YARN}, "rope_theta: found 1, and yarn divides by its logarithm"),
        (
            {"head_dim": 2, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
            "a dynamic rope needs more than 2 rotated dims",
        ),
    ],
)
def test_ropes_that_divide_by_zero_in_transformers_too_are_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    assert any(words in one for one in surveyed(tmp_path / "model", **changes).problems)
    judge = LlamaConfig(**copy.deepcopy({"hidden_size": 8, "num_attention_heads": 4, **changes}))
    with pytest.raises(ZeroDivisionError):
        LlamaRotaryEmbedding(judge)


def test_a_long_rope_of_one_position_is_refused() -> None:
    long = (one.config for one in PUBLISHED if "long_factor" in (one.config.get("rope_scaling") or {}))
    words = reading({**next(long), LENGTH: 1})
    assert f"{LENGTH}: found 1, and longrope divides by its logarithm" in words


def test_a_factor_of_zero_is_as_good_as_none(tmp_path: Path) -> None:
    found = surveyed(tmp_path / "model", rope_scaling={**YARN, "mscale": 1.0, "mscale_all_dim": 0})
    assert found.problems == []


def test_a_rope_is_refused_in_whole_sentences_where_none_is_scaled() -> None:
    config = {**next(one.config for one in PUBLISHED if one.config["architectures"] == ["PhiForCausalLM"])}
    words = reading({**config, "rope_scaling": {"rope_type": "linear", "factor": 2.0}})
    assert "rope_scaling: found rope_type 'linear', expected none: the format has no scaling" in words


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"clip_qkv": 8.0}, "LlamaConfig has no such key, as transformers does: clip_qkv 8.0"),
        ({"sliding_window": 320, "logits_scaling": 8.0}, "logits_scaling 8.0, sliding_window 320"),
        ({"no_rope_layers": [1, 0]}, "no_rope_layers [1, 0]"),
        ({"auto_map": {"AutoModelForCausalLM": "modeling_x.X"}}, "its own code ('modeling_x.X', auto_map)"),
    ],
)
def test_what_a_class_passes_over_is_said(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    found = surveyed(tmp_path / "model", **changes)
    assert found.problems == []
    assert any(words in one for one in found.notes)


@pytest.mark.parametrize(
    "name", ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"]
)
def test_frequencies_that_were_saved_with_the_weights_are_dropped_in_either_place(
    tmp_path: Path, name: str
) -> None:
    folder = write_tiny_llama(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, name: torch.rand(8)}, folder / "model.safetensors", {"format": "pt"})
    found = survey(locate(str(folder)))
    assert found.problems == []
    assert name in found.dropped


def test_keys_that_say_nothing_are_passed_over_without_a_word(tmp_path: Path) -> None:
    found = surveyed(tmp_path / "model", model_type="llama", model_max_length=4096, clip_qkv=None)
    assert found.problems == [] and not found.notes


def test_published_configs_have_the_model_type_of_their_architecture() -> None:
    for one in (*PUBLISHED, *OLDER):
        assert isinstance(reading(one.config), dict), one.name
