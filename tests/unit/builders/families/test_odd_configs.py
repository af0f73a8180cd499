"""Configs that say two things, or something that their class passes over: refused, or said in a note."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from builders.audit.survey import Survey, survey
from builders.sources import locate
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
        ({"per_layer_config": {"1": {"rms_norm_eps": 0.5}}}, "per_layer_config: found {'1'"),
        ({"quantization_config": None, "compression_config": {"quant_method": "hqq"}}, "'hqq' is not read"),
    ],
)
def test_a_config_that_says_two_things_is_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    assert any(words in one for one in surveyed(tmp_path / "model", **changes).problems)


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


@pytest.mark.parametrize("kind", ["llama", "yi", None])
def test_a_model_type_of_no_other_class_is_of_no_matter(tmp_path: Path, kind: str | None) -> None:
    found = surveyed(tmp_path / "model", model_type=kind, model_max_length=4096, clip_qkv=None)
    assert found.problems == [] and not found.notes


def test_published_configs_have_the_model_type_of_their_architecture() -> None:
    from tests.support.families.changed_configs import reading

    for one in (*PUBLISHED, *OLDER):
        assert isinstance(reading(one.config), dict), one.name
