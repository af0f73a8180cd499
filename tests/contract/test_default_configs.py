"""Every architecture of the table as transformers makes and saves it by default: parameters to the last one.

The judge is transformers on the meta device; its own config, as it saves it, is all that the table is given.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest

from tpforge.architectures.declared import read_declared
from tpforge.architectures.table import known_classes

OTHER_NAMES = {
    "ExaoneMoEForCausalLM": "ExaoneMoeForCausalLM",
    "KimiK25ForConditionalGeneration": "Kimi_K25ForConditionalGeneration",
}
"""What transformers calls a class."""
GIVEN: dict[str, dict[str, Any]] = {
    "DeepseekV2ForCausalLM": {"num_experts_per_tok": 6},
    "HunYuanDenseV1ForCausalLM": {"head_dim": 128},
    "HunYuanMoEV1ForCausalLM": {"head_dim": 128},
    "LagunaForCausalLM": {"num_attention_heads_per_layer": [48, 64] * 20, "gating": "per-head"},
}
"""What a default leaves out: sizes without which no model is made, or routes; heads that differ by layer."""
_CORRECTIONS = ("e_score_correction_bias", "expert_bias", "layer_scalar")
"""Buffers of transformers that checkpoints hold as weights."""


@cache
def names_of_transformers() -> frozenset[str]:
    """All that transformers has, none of it loaded; it takes long to say."""
    import transformers

    return frozenset(dir(transformers))


def is_made_by_transformers(name: str) -> bool:
    """Whether transformers has the class, without loading it."""
    return OTHER_NAMES.get(name, name) in names_of_transformers()


def test_transformers_has_most_classes_of_the_table() -> None:
    assert sum(map(is_made_by_transformers, known_classes())) >= 40


@pytest.mark.parametrize("name", known_classes())
def test_a_default_config_as_it_is_saved_declares_as_many_parameters(name: str) -> None:
    import torch
    import transformers

    if not is_made_by_transformers(name):
        pytest.skip(f"transformers has no {name}")
    kind: Any = getattr(transformers, OTHER_NAMES.get(name, name))
    config = kind.config_class(**GIVEN.get(name, {}))
    saved = json.loads(config.to_json_string(use_diff=False))
    with torch.device("meta"):
        model = kind(config)
    buffers = sum(one.numel() for key, one in model.named_buffers() if key.endswith(_CORRECTIONS))
    expected = buffers + sum(one.numel() for one in model.parameters())
    assert read_declared({**saved, "architectures": [name]}, where=name).num_parameters == expected
