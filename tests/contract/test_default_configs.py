"""Every architecture of the table as transformers makes and saves it by default: parameters to the last one.

The judge is transformers on the meta device; its own config, as it saves it, is all that the table is given.
"""

from __future__ import annotations

import json
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


def class_of(name: str) -> Any:
    import transformers

    return getattr(transformers, OTHER_NAMES.get(name, name), None)


def made_by_transformers() -> list[str]:
    return [name for name in known_classes() if class_of(name) is not None]


def test_transformers_has_most_classes_of_the_table() -> None:
    assert len(made_by_transformers()) >= 40


@pytest.mark.parametrize("name", made_by_transformers())
def test_a_default_config_as_it_is_saved_declares_as_many_parameters(name: str) -> None:
    import torch

    kind = class_of(name)
    config = kind.config_class(**GIVEN.get(name, {}))
    saved = json.loads(config.to_json_string(use_diff=False))
    with torch.device("meta"):
        model = kind(config)
    buffers = sum(one.numel() for key, one in model.named_buffers() if key.endswith(_CORRECTIONS))
    expected = buffers + sum(one.numel() for one in model.parameters())
    assert read_declared({**saved, "architectures": [name]}, where=name).num_parameters == expected
