"""Checkpoints by the table of architectures where one has more or other layers than those of most models.

Transformers writes them. The judge is the checkpoint itself: the sum of its headers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests.support.tiny import write_tiny_tokenizer
from tests.unit.builders.test_declared_models import BASE, VISION, inspected
from tpforge.architectures.declared import Sizes, read_declared
from tpforge.architectures.expressions import Absent, NotANumber
from tpforge.architectures.table import architectures, common_sizes
from tpforge.errors import InputRefused

Config = dict[str, Any]

QWEN_TEXT = {
    **{key: value for key, value in BASE.items() if key not in ("head_dim", "tie_word_embeddings")},
    "num_hidden_layers": 2,
}
DEEP: Config = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "depth": 5,
    "num_heads": 2,
    "out_hidden_size": 64,
    "patch_size": 14,
    "spatial_merge_size": 2,
}
TOWERS: dict[str, Config] = {
    "Qwen2VLForConditionalGeneration": {
        "text_config": QWEN_TEXT,
        "vision_config": {"depth": 5, "embed_dim": 32, "num_heads": 2, "hidden_size": 64, "mlp_ratio": 2},
    },
    "Qwen2_5_VLForConditionalGeneration": {"text_config": QWEN_TEXT, "vision_config": DEEP},
    "Qwen3VLForConditionalGeneration": {
        "text_config": {**QWEN_TEXT, "head_dim": 16},
        "vision_config": {**DEEP, "deepstack_visual_indexes": [1, 3], "num_position_embeddings": 16},
    },
    "Gemma3ForConditionalGeneration": {
        "text_config": {**BASE, "num_hidden_layers": 2, "tie_word_embeddings": True},
        "vision_config": {**VISION, "num_hidden_layers": 5, "image_size": 56, "patch_size": 14},
        "mm_tokens_per_image": 4,
        "tie_word_embeddings": True,
    },
}
GEMMA4: Config = {
    **BASE,
    "tie_word_embeddings": True,
    "hidden_size_per_layer_input": 0,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    "sliding_window": 32,
}
KINDS: dict[str, Config] = {
    "keys and values alike, as many heads as in the other layers": {"attention_k_eq_v": True},
    "keys and values alike, fewer heads": {"attention_k_eq_v": True, "num_global_key_value_heads": 1},
    "other heads": {"global_head_dim": 32},
    "heads of the other layers": {"global_head_dim": 16},
}
"""What makes the full layers of Gemma 4 other ones; transformers 5.23 saves it as per_layer_config."""


def write(folder: Path, name: str, values: Config) -> Path:
    import torch
    import transformers

    kind = getattr(transformers, name)
    torch.manual_seed(0)
    kind(kind.config_class(**values)).to(torch.bfloat16).save_pretrained(folder)
    write_tiny_tokenizer(folder, vocab_size=288)
    return folder


@pytest.mark.parametrize("name", TOWERS)
def test_a_tower_may_have_more_layers_than_the_language_model(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "model", name, TOWERS[name])
    status, found = inspected(folder, capsys)
    assert (status, found["problems"]) == (0, [])
    tensors = load_file(folder / "model.safetensors")
    assert found["num_parameters"] == sum(one.numel() for one in tensors.values())
    kept = {key: one for key, one in tensors.items() if "layers.1." not in key or "vis" in key}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    status, found = inspected(folder, capsys)
    assert status == 4
    assert any("of 2 layers the tensors of 1 are missing" in one for one in found["problems"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_full_layers_of_gemma_4_are_read_as_either_version_spells_them(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "model", "Gemma4ForCausalLM", {**GEMMA4, **KINDS[kind]})
    num_parameters = sum(one.numel() for one in load_file(folder / "model.safetensors").values())
    config = json.loads((folder / "config.json").read_text())
    assert "per_layer_config" in config
    named = {"architectures": ["Gemma4ForCausalLM"], "model_type": "gemma4_text"}
    for stated in (config, {**named, **GEMMA4, **KINDS[kind]}):
        (folder / "config.json").write_text(json.dumps(stated))
        status, found = inspected(folder, capsys)
        assert (status, found["problems"]) == (0, [])
        assert found["num_parameters"] == num_parameters


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("Gemma4ForCausalLM", {"1": {"head_dim": 32}}),
        ("Gemma4ForCausalLM", {"1": {"head_dim": 32}, "3": {"head_dim": 48}}),
        ("Gemma4ForCausalLM", {"1": {"intermediate_size": 32}, "3": {"intermediate_size": 32}}),
        ("Qwen3NextForCausalLM", {"1": {"num_key_value_heads": 4}}),
        ("Olmo3ForCausalLM", {"1": {"rms_norm_eps": 0.5}}),
    ],
)
def test_single_layers_that_differ_otherwise_are_refused(name: str, layers: Config) -> None:
    config = {"architectures": [name], **GEMMA4, "per_layer_config": layers}
    with pytest.raises(InputRefused, match=r"per_layer_config: found .*other layers are not read"):
        read_declared(config, where="config.json")


@pytest.mark.parametrize("row", architectures(), ids=lambda row: row.name)
def test_no_size_of_the_table_rests_on_itself(row: Any) -> None:
    uses = [use for table in (row.attention, row.mlp) for kind in table.kinds.values() for use in kind]
    for use in [*row.each, *row.once, *uses]:
        sizes = Sizes({**common_sizes(), **row.sizes}, {}, {}).with_own(use.sizes, {})
        for name in use.sizes:
            try:
                assert isinstance(sizes[name], int)
            except (Absent, NotANumber):
                continue
