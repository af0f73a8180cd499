"""builders.families: config.json to ModelSpec, and the config.json of TensorRT-LLM."""

import json
from pathlib import Path
from typing import Any

import pytest

from builders.conversion.planning import plan_shards
from builders.families.common.reading import ConfigReader
from builders.families.common.registry import FAMILIES, find_family
from builders.families.llama import LLAMA, MISTRAL
from builders.sources import open_source
from tests.support.tiny import write_tiny_llama
from tpforge.dtypes import DType
from tpforge.errors import InputRefused
from tpforge.model import ModelSpec, RopeSpec
from tpforge.shards.mapping import Mapping

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "max_position_embeddings": 512,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 320,
}


def read(generation: dict[str, Any] | None = None, **changes: Any) -> ModelSpec:
    config = CONFIG | changes
    family = find_family(config["architectures"], where="config.json")
    return family.read_model(
        ConfigReader(config, where="config.json", weight_dtype=DType.FLOAT16, generation=generation)
    )


def problems(**changes: Any) -> list[str]:
    with pytest.raises(InputRefused) as caught:
        read(**changes)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def test_absent_keys_take_the_defaults_of_transformers() -> None:
    from transformers import LlamaConfig

    spec = read()
    theirs = LlamaConfig(**{key: value for key, value in CONFIG.items() if key != "architectures"})
    assert spec.attention.num_kv_heads == theirs.num_key_value_heads == 4
    assert spec.attention.head_size == theirs.head_dim == 16
    assert spec.rope == RopeSpec(base=theirs.rope_parameters["rope_theta"])
    assert spec.norm.epsilon == theirs.rms_norm_eps
    assert spec.tie_word_embeddings is theirs.tie_word_embeddings is False
    assert spec.attention.bias is theirs.attention_bias is False
    assert spec.dtype is DType.FLOAT16, "the weights' own"


def test_head_dim_may_differ_from_hidden_over_heads() -> None:
    assert read(head_dim=32).attention.head_size == 32
    assert read(head_dim=None).attention.head_size == 16


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_theta": 5e5, "rope_scaling": LLAMA3},
        {"rope_parameters": LLAMA3 | {"rope_theta": 5e5}},
        {"rope_theta": 5e5, "rope_parameters": LLAMA3},
    ],
)
def test_rope_is_read_from_the_old_and_the_new_spelling(changes: dict[str, Any]) -> None:
    assert read(**changes).rope == RopeSpec(base=5e5, scaling=LLAMA3)


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_theta": 5e5, "rope_scaling": None},
        {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
    ],
)
def test_plain_rope_has_no_scaling(changes: dict[str, Any]) -> None:
    assert read(**changes).rope == RopeSpec(base=5e5, scaling=None)


def test_the_old_linear_scaling_keeps_its_spelling() -> None:
    scaling = {"type": "linear", "factor": 2.0}
    assert read(rope_scaling=scaling).rope.scaling == scaling


@pytest.mark.parametrize("key", ["torch_dtype", "dtype"])
def test_the_type_is_read_from_the_old_and_the_new_spelling(key: str) -> None:
    assert read(**{key: "bfloat16"}).dtype is DType.BFLOAT16


def test_end_ids_of_the_generation_config_come_first() -> None:
    tokens = read(
        generation={"eos_token_id": [7, 5], "pad_token_id": 3},
        eos_token_id=9,
        bos_token_id=1,
        pad_token_id=-1,
    ).special_tokens
    assert (tokens.begin_id, tokens.end_ids, tokens.pad_id) == (1, (7, 5, 9), 3)
    assert read(eos_token_id=9, pad_token_id=-1).special_tokens.end_ids == (9,)
    assert read(pad_token_id=-1).special_tokens.pad_id is None


def test_all_problems_are_reported_at_once_and_sorted() -> None:
    found = problems(
        hidden_act="gelu",
        hidden_size="64",
        mlp_bias="yes",
        num_attention_heads=6,
        num_key_value_heads=4,
        num_hidden_layers=0,
        quantization_config={"quant_method": "gptq", "bits": 4},
        rope_scaling={"rope_type": "longrope"},
        vocab_size=None,
        eos_token_id="</s>",
    )
    assert found == sorted(found)
    text = "\n".join(found)
    for words in (
        "hidden_act: found 'gelu', expected silu",
        "hidden_size: found '64', expected an integer",
        "mlp_bias: found 'yes', expected true or false",
        "num_attention_heads 6 is not a multiple of num_key_value_heads 4",
        "num_hidden_layers: found 0, expected 1 or more",
        "quantization_config: found {'quant_method': 'gptq', 'bits': 4}; the weights are quantized",
        "rope_scaling: found rope_type 'longrope', expected one of linear, dynamic, yarn, llama3",
        "vocab_size: found None, expected an integer",
        "eos_token_id: found '</s>', expected an integer or a list of integers",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_attention_heads": 5}, "hidden_size 64 is not a multiple of num_attention_heads 5"),
        ({"head_dim": 15}, "head_dim 15 is odd"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor: found 0.5, expected 1.0"),
        ({"rope_scaling": "yes"}, "rope_scaling: found 'yes', expected an object or null"),
        ({"rope_scaling": {"factor": 8.0}}, "rope_scaling: holds factor, but no rope_type to use them"),
        ({"rope_theta": -1}, "rope_theta: found -1, expected a number above 0"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps: found nan, expected a number above 0"),
        ({"eos_token_id": 320}, "eos_token_id: found [320], outside the vocabulary of 320"),
        ({"torch_dtype": "float8"}, "dtype 'float8' is not supported"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings: found 'yes', expected true or false"),
        ({"rope_theta": float("inf")}, "rope_theta: found inf, expected a number above 0"),
        (
            {"rope_theta": 1e308},
            "rope_theta: found 1e+308, expected a number above 0 that float32 holds, 3.403e+38",
        ),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers: found 1000000000000, expected 10000 or less"),
        ({"num_hidden_layers": True}, "num_hidden_layers: found True, expected an integer"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(changes: dict[str, Any], words: str) -> None:
    assert problems(**changes)[0].startswith(words)


def test_mistral_keeps_its_sliding_window_and_llama_has_none() -> None:
    mistral = {"architectures": ["MistralForCausalLM"], "num_key_value_heads": 2}
    assert read(**mistral, sliding_window=512).attention.sliding_window == 512
    assert read(**mistral).attention.sliding_window == 4096
    assert read(**mistral, sliding_window=None).attention.sliding_window is None
    assert read(sliding_window=4096).attention.sliding_window is None
    assert MISTRAL.rows == LLAMA.rows


@pytest.mark.parametrize("architectures", [None, [], ["A", "B"], "Unknown"])
def test_anything_but_one_known_architecture_is_refused(architectures: object) -> None:
    with pytest.raises(InputRefused, match=r"which is not supported; known are .*LlamaForCausalLM, Mistral"):
        find_family(architectures, where="config.json")


def test_an_architecture_may_stand_without_a_list() -> None:
    assert read(architectures="LlamaForCausalLM").architecture == "LlamaForCausalLM"


def test_no_architecture_is_in_two_families() -> None:
    names = [name for family in FAMILIES for name in family.architectures]
    assert len(names) == len(set(names))


def test_every_expected_source_tensor_is_used_by_a_rule_and_every_rule_has_its_sources() -> None:
    for bias in (False, True):
        for tie in (False, True):
            spec = read(attention_bias=bias, tie_word_embeddings=tie)
            with_plan = [
                rule
                for dim in (None, 0, 1)
                for rule in LLAMA.rules(plan_of(spec, parallel_embedding_dim=dim))
            ]
            used = {
                part.source.format(layer=layer)
                for rule in with_plan
                for part in rule.parts
                for layer in range(spec.num_layers)
            }
            assert used == set(LLAMA.expected_shapes(spec))


def plan_of(spec: ModelSpec, *, tp_size: int = 1, parallel_embedding_dim: int | None = None) -> Any:
    from tpforge.shards.padding import plan_padding
    from tpforge.shards.sharding import ShardPlan

    return ShardPlan(
        model=spec,
        mapping=Mapping(tp_size=tp_size),
        padding=plan_padding(spec, tp_size=tp_size),
        parallel_embedding_dim=parallel_embedding_dim,
    )


def test_config_json_has_exactly_the_keys_and_values_of_the_format(tmp_path: Path) -> None:
    model = write_tiny_llama(
        tmp_path, num_heads=9, num_kv_heads=3, rope_scaling=LLAMA3, tie=True, bias=True, vocab_size=257
    )
    with open_source(str(model)) as source:
        plan = plan_shards(
            source, mapping=Mapping(tp_size=4, pp_size=2), pad=True, parallel_embedding_dim=None
        )
        found = json.loads(json.dumps(source.family.target_config(plan, dtype=DType.BFLOAT16)))
    assert found.pop("mapping") == {
        "world_size": 8, "gpus_per_node": 8, "cp_size": 1, "tp_size": 4, "pp_size": 2, "moe_tp_size": 4,
        "moe_cluster_size": 1, "moe_ep_size": 1, "attn_tp_size": 4, "attn_cp_size": 1, "cp_config": {},
        "enable_attention_dp": False, "enable_lm_head_tp_in_adp": False,
    }  # fmt: skip
    assert found.pop("quantization") == {
        "quant_algo": None, "kv_cache_quant_algo": None, "group_size": 128, "smoothquant_val": 0.5,
        "clamp_val": None, "use_meta_recipe": False, "has_zero_point": False, "pre_quant_scale": False,
        "exclude_modules": None,
    }  # fmt: skip
    assert found.pop("moe") == {
        "num_experts": 0, "shared_expert_intermediate_size": 0, "top_k": 0, "normalization_mode": None,
        "sparse_mixer_epsilon": 0.01, "tp_mode": 0, "device_limited_n_group": 0,
        "device_limited_topk_group": 0, "device_limited_routed_scaling_factor": 1.0,
    }  # fmt: skip
    assert found == {
        "architecture": "LlamaForCausalLM", "dtype": "bfloat16", "logits_dtype": "float32",
        "vocab_size": 257, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 12,
        "num_key_value_heads": 4, "head_size": 16, "hidden_act": "silu", "intermediate_size": 128,
        "norm_epsilon": 1e-5, "position_embedding_type": "rope_gpt_neox", "max_position_embeddings": 512,
        "use_parallel_embedding": False, "embedding_sharding_dim": 0, "qk_layernorm": False,
        "rotary_embedding_dim": 16, "tie_word_embeddings": True, "runtime_defaults": None,
        "mlp_bias": False, "attn_bias": True, "rotary_base": 10000.0, "rotary_scaling": LLAMA3,
        "residual_mlp": False, "disable_weight_only_quant_plugin": False,
        "remove_duplicated_kv_heads": False, "fc_after_embed": False,
        "use_input_layernorm_in_first_layer": True, "use_last_layernorm": True, "layer_idx_offset": 0,
        "embedding_multiplier": 1.0, "attention_multiplier": 1.0, "residual_multiplier": 1.0,
        "output_multiplier_scale": 1.0, "has_partial_lora_mask": False,
    }  # fmt: skip
