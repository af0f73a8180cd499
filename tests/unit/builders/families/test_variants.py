"""What a family's config.json decides where checkpoints of one architecture differ, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from builders.families.common.reading import ConfigReader
from builders.families.common.registry import find_family
from tpforge.dtypes import DType
from tpforge.errors import InputRefused
from tpforge.model import ModelSpec
from tpforge.shards.mapping import Mapping
from tpforge.shards.padding import plan_padding
from tpforge.shards.sharding import ShardPlan

CHATGLM = {
    "architectures": ["ChatGLMModel"],
    "hidden_size": 64,
    "num_attention_heads": 4,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_layers": 2,
    "seq_length": 128,
    "ffn_hidden_size": 96,
    "padded_vocab_size": 65024,
    "kv_channels": 16,
}
BAICHUAN = {
    "architectures": ["BaichuanForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 64000,
}
MPT = {
    "architectures": ["MPTForCausalLM"],
    "d_model": 64,
    "n_heads": 4,
    "n_layers": 2,
    "max_seq_len": 128,
    "vocab_size": 100,
    "attn_config": {"alibi": True, "alibi_bias_max": 8, "clip_qkv": 4.0},
}


def read(base: dict[str, Any], **changes: Any) -> ModelSpec:
    values = base | changes
    family = find_family(values["architectures"], where="config.json")
    return family.read_model(ConfigReader(values, where="config.json", weight_dtype=DType.FLOAT32))


def planned(base: dict[str, Any], **changes: Any) -> ShardPlan:
    model = read(base, **changes)
    padding = plan_padding(model, tp_size=1)
    return ShardPlan(model=model, mapping=Mapping(tp_size=1), padding=padding, parallel_embedding_dim=None)


def target(base: dict[str, Any], **changes: Any) -> dict[str, Any]:
    family = find_family(base["architectures"], where="config.json")
    return family.target_config(planned(base, **changes), dtype=DType.FLOAT16)


@pytest.mark.parametrize(
    ("changes", "version", "base", "scaling"),
    [
        ({}, "chatglm3", 10000.0, None),
        ({"padded_vocab_size": 151552, "rope_ratio": 500}, "glm4", 5_000_000.0, None),
        ({"rope_ratio": 50, "_name_or_path": "x/chatglm3-6b-32k"}, "chatglm3", 500_000.0, None),
        (
            {"rope_ratio": 50, "_name_or_path": "x/chatglm2-6b-32k"},
            "chatglm2",
            10000.0,
            {"type": "linear", "factor": 50.0},
        ),
    ],
)
def test_rope_ratio_stretches_positions_in_chatglm2_and_the_base_since_then(
    changes: dict[str, Any], version: str, base: float, scaling: dict[str, Any] | None
) -> None:
    config = target(CHATGLM, **changes)
    assert (config["chatglm_version"], config["rotary_base"], config["rotary_scaling"]) == (
        version,
        base,
        scaling,
    )
    assert (config["hidden_act"], config["rotary_embedding_dim"]) == ("swiglu", 8)


def test_a_rope_ratio_that_could_be_chatglm2s_or_3s_is_refused() -> None:
    with pytest.raises(InputRefused, match="which ChatGLM 2 and 3 understand differently"):
        read(CHATGLM, rope_ratio=50)


@pytest.mark.parametrize(
    ("changes", "version", "position", "transform"),
    [
        ({"max_position_embeddings": 128}, "v1_7b", "rope_gpt_neox", None),
        ({"model_max_length": 128}, "v1_13b", "alibi", None),
        ({"max_position_embeddings": 128, "vocab_size": 125696}, "v2_7b", "rope_gpt_neox", "unit rows"),
        ({"model_max_length": 128, "vocab_size": 125696}, "v2_13b", "alibi", "unit rows"),
    ],
)
def test_baichuans_positions_and_head_follow_from_its_lengths_and_vocabulary(
    changes: dict[str, Any], version: str, position: str, transform: str | None
) -> None:
    config = target(BAICHUAN, **changes)
    assert (config["model_version"], config["position_embedding_type"]) == (version, position)
    assert config["max_position_embeddings"] == 128
    family = find_family(BAICHUAN["architectures"], where="config.json")
    (head,) = (rule for rule in family.rules(planned(BAICHUAN, **changes)) if rule.target == "lm_head.weight")
    assert [part.transform for part in head.parts] == [transform]


FIRST = {"architectures": ["BaiChuanForCausalLM"], "max_position_embeddings": 128}


@pytest.mark.parametrize(
    ("changes", "version", "transform"),
    [
        # Tokens were added, so that the vocabulary is that of neither.
        ({"max_position_embeddings": 128, "vocab_size": 64005, "z_loss_weight": 0}, "v2_7b", "unit rows"),
        ({"max_position_embeddings": 128, "vocab_size": 64000, "z_loss_weight": 0}, "v2_7b", "unit rows"),
        ({"model_max_length": 128, "vocab_size": 125700, "z_loss_weight": 0.0}, "v2_13b", "unit rows"),
        (FIRST | {"vocab_size": 64005}, "v1_7b", None),
        (FIRST | {"vocab_size": 125696}, "v1_7b", None),
    ],
)
def test_baichuans_version_is_told_by_what_its_configs_alone_have(
    changes: dict[str, Any], version: str, transform: str | None
) -> None:
    assert target(BAICHUAN, **changes)["model_version"] == version
    family = find_family(BAICHUAN["architectures"], where="config.json")
    (head,) = (rule for rule in family.rules(planned(BAICHUAN, **changes)) if rule.target == "lm_head.weight")
    assert [part.transform for part in head.parts] == [transform]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_position_embeddings": 128, "vocab_size": 64005}, "neither 64000 (Baichuan) nor 125696"),
        ({"model_max_length": 128, "vocab_size": 125700}, 'add "z_loss_weight": 0 for Baichuan 2'),
        (FIRST | {"z_loss_weight": 0}, "z_loss_weight: found 0; Baichuan 2 has it"),
    ],
)
def test_a_baichuan_of_either_version_is_refused_and_not_guessed(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputRefused) as refused:
        read(BAICHUAN, **changes)
    assert words in str(refused.value)


def test_mpts_clip_and_slopes_stand_in_its_config_under_upstreams_one_name() -> None:
    config = target(MPT | {"architectures": ["MptForCausalLM"]})
    assert config["architecture"] == "MPTForCausalLM"
    assert (config["clip_qkv"], config["alibi_bias_max"], config["bias"]) == (4.0, 8, False)
    assert (config["intermediate_size"], config["position_embedding_type"]) == (256, "alibi")


@pytest.mark.parametrize(
    ("base", "changes", "words"),
    [
        (MPT, {"no_bias": False}, "no_bias: found False"),
        (MPT, {"expansion_ratio": 2}, "expansion_ratio: found 2"),
        (MPT, {"attn_config": {"alibi": False}}, "alibi: found False"),
        (MPT, {"attn_config": {"qk_ln": True}}, "qk_ln: found True"),
        (MPT, {"attn_config": {"kv_n_heads": 1}}, "kv_n_heads: found 1"),
        (MPT, {"logit_scale": 0.5}, "logit_scale: found 0.5"),
        (MPT, {"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon: found 1e-06"),
        (CHATGLM, {"add_bias_linear": True}, "add_bias_linear: found True"),
        (CHATGLM, {"rmsnorm": False}, "rmsnorm: found False"),
        (CHATGLM, {"kv_channels": 8}, "kv_channels 8 x num_attention_heads 4: expected hidden_size 64"),
        (BAICHUAN, {}, "model_max_length: found None"),
        (
            BAICHUAN,
            {"max_position_embeddings": 64, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
            "rope_scaling: found rope_type 'linear'",
        ),
    ],
)
def test_what_the_format_has_no_place_for_is_refused(
    base: dict[str, Any], changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputRefused) as caught:
        read(base, **changes)
    assert words in str(caught.value)
