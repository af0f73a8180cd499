"""Published models: config.json is what TensorRT-LLM's own conversion writes, key for key.

And what its model definitions cannot take is refused with the reason.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from builders.families.common.reading import ConfigReader
from builders.families.common.registry import find_family
from tests.support.published.configs import ALIKE, PUBLISHED, Published
from tests.support.published.older import OLDER
from tpforge.dtypes import DType
from tpforge.errors import InputRefused
from tpforge.model import ModelSpec
from tpforge.shards.mapping import Mapping
from tpforge.shards.padding import plan_padding
from tpforge.shards.sharding import ShardPlan

MODELS = (*PUBLISHED, *OLDER)
BY_NAME = {one.name: one.config for one in MODELS}


def read(config: dict[str, Any]) -> ModelSpec:
    family = find_family(config["architectures"], where="config.json")
    return family.read_model(ConfigReader(config, where="config.json", weight_dtype=DType.FLOAT16))


def plan_of(config: dict[str, Any], *, tp_size: int = 1, dim: int | None = None) -> ShardPlan:
    model = read(config)
    mapping = Mapping(tp_size=tp_size)
    return ShardPlan(model, mapping, plan_padding(model, tp_size=tp_size), dim)


def written(config: dict[str, Any], **how: Any) -> dict[str, Any]:
    """config.json as it is read back."""
    plan = plan_of(config, **how)
    family = find_family(config["architectures"], where="config.json")
    values = family.target_config(plan, dtype=plan.model.dtype)
    loaded: dict[str, Any] = json.loads(json.dumps(values))
    return loaded


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_config_json_is_what_upstream_writes(model: Published) -> None:
    found, expected = written(model.config), ALIKE | model.written
    assert set(found) == set(expected)
    for key, value in expected.items():
        if isinstance(value, float):
            assert found[key] == pytest.approx(value, rel=1e-12), key
        else:
            assert found[key] == value, key


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_sizes_do_not_depend_on_the_division(model: Published) -> None:
    whole, divided = written(model.config), written(model.config, tp_size=4)
    changed = {key for key in whole if whole[key] != divided[key]}
    gemma = {"use_parallel_embedding"} if "Gemma" in model.config["architectures"][0] else set()
    assert changed == {"mapping"} | gemma


def test_gemma_and_command_r_divide_their_embedding_whatever_is_asked() -> None:
    for name in ("google/gemma-2-9b", "CohereForAI/c4ai-command-r-v01"):
        family = find_family(BY_NAME[name]["architectures"], where="")
        plan = plan_of(BY_NAME[name], tp_size=2)
        (rule,) = (one for one in family.rules(plan) if "vocab_embedding" in one.target)
        assert rule.parts[0].cut.value == "vocab rows"
        assert written(BY_NAME[name], tp_size=2)["use_parallel_embedding"] is True
        (check,) = family.restrictions
        assert check(plan) is None
        assert "use 0, or leave it out" in str(check(plan_of(BY_NAME[name], tp_size=2, dim=1)))


HEADS_DERIVED = (
    "microsoft/phi-2",
    "microsoft/Phi-3-mini-4k-instruct",
    "tiiuae/falcon-40b",
    "EleutherAI/gpt-j-6b",
    "databricks/dbrx-base",
    "EleutherAI/gpt-neox-20b",
    "facebook/opt-6.7b",
    "baichuan-inc/Baichuan2-7B-Chat",
    "THUDM/chatglm3-6b",
    "microsoft/Phi-3.5-MoE-instruct",
)


@pytest.mark.parametrize("name", HEADS_DERIVED)
def test_padded_heads_are_refused_where_their_number_gives_the_head_size(name: str) -> None:
    family = find_family(BY_NAME[name]["architectures"], where="")

    def objections(tp_size: int) -> list[str]:
        plan = plan_of(BY_NAME[name], tp_size=tp_size)
        return [text for check in family.restrictions if (text := check(plan))]

    assert objections(8) == []
    num_heads = plan_of(BY_NAME[name]).model.attention.num_heads
    assert f"tp=5 would pad {num_heads} attention heads to" in objections(5)[0]


def test_an_mlp_of_another_width_is_refused_where_upstream_takes_4_x_hidden() -> None:
    name = "EleutherAI/gpt-neox-20b"
    family = find_family(BY_NAME[name]["architectures"], where="")
    plan = plan_of(BY_NAME[name] | {"intermediate_size": 24000})
    texts = [text for check in family.restrictions if (text := check(plan))]
    assert len(texts) == 1
    assert "an MLP of width 24000" in texts[0] and "takes 4 x hidden_size = 24576" in texts[0]


def problems(name: str, **changes: Any) -> str:
    with pytest.raises(InputRefused) as caught:
        read(BY_NAME[name] | changes)
    return str(caught.value)


DEEPSEEK = "deepseek-ai/DeepSeek-V2"


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        (DEEPSEEK, {"first_k_dense_replace": 3}, "first_k_dense_replace: found 3; TensorRT-LLM's DeepSeek"),
        (DEEPSEEK, {"moe_layer_freq": 2}, "moe_layer_freq: found 2"),
        (DEEPSEEK, {"topk_method": "noaux_tc"}, "topk_method: found 'noaux_tc', expected greedy or group"),
        (DEEPSEEK, {"scoring_func": "sigmoid"}, "scoring_func: found 'sigmoid'"),
        (DEEPSEEK, {"topk_method": "greedy"}, "routed_scaling_factor: found 16.0, expected 1.0"),
        (DEEPSEEK, {"rope_scaling": None}, "rope_scaling: missing, expected one of type yarn"),
        (DEEPSEEK, {"v_head_dim": 64}, "v_head_dim: found 64, expected qk_nope_head_dim 128"),
        (DEEPSEEK, {"attention_bias": True}, "attention_bias: found True"),
        (DEEPSEEK, {"norm_topk_prob": True}, "norm_topk_prob: found True; transformers computes as if"),
        (DEEPSEEK, {"rms_norm_eps": 1e-5}, "rms_norm_eps: found 1e-05; some norms of DeepSeek V2 always"),
        (DEEPSEEK, {"n_group": 7}, "n_routed_experts 160 is not a multiple of n_group 7"),
        ("CohereForAI/c4ai-command-r-v01", {"rope_theta": None}, "rope_theta: missing, and transformers"),
        ("CohereForAI/c4ai-command-r-v01", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type"),
        ("microsoft/phi-2", {"layer_norm_eps": 1e-6}, "layer_norm_eps: found 1e-06"),
        ("microsoft/phi-2", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling: found"),
        ("tiiuae/falcon-40b", {"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon: found 1e-06"),
        ("EleutherAI/gpt-neox-20b", {"layer_norm_eps": 1e-6}, "layer_norm_eps: found 1e-06"),
        ("EleutherAI/gpt-neox-20b", {"attention_bias": False}, "attention_bias: found False"),
        ("bigscience/bloom-7b1", {"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon: found 1e-06"),
        ("microsoft/Phi-3.5-MoE-instruct", {"lm_head_bias": False}, "lm_head_bias: expected true"),
        ("microsoft/Phi-3.5-MoE-instruct", {"router_jitter_noise": 0.1}, "router_jitter_noise: found 0.1"),
    ],
)
def test_what_the_model_definition_has_no_place_for_is_refused(
    name: str, changes: dict[str, Any], words: str
) -> None:
    assert words in problems(name, **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"moe_normalize_expert_weights": 2}, "moe_normalize_expert_weights: found 2; the format divides"),
        ({"ffn_act_fn": {"name": "gelu"}}, "name: found 'gelu'; its experts are gated by silu"),
    ],
)
def test_dbrx_experts_of_another_kind_are_refused(changes: dict[str, Any], words: str) -> None:
    block = BY_NAME["databricks/dbrx-base"]["ffn_config"] | changes
    assert words in problems("databricks/dbrx-base", ffn_config=block)


def test_two_bases_of_dbrx_are_refused() -> None:
    parameters = {"rope_type": "default", "rope_theta": 10000.0}
    found = problems("databricks/dbrx-base", rope_parameters=parameters)
    assert "attn_config.rope_theta 500000 and rope_parameters.rope_theta 10000.0 differ" in found
    same = parameters | {"rope_theta": 500000.0}
    assert read(BY_NAME["databricks/dbrx-base"] | {"rope_parameters": same}).rope.base == 500000.0


def test_null_weights_of_dbrx_are_not_normalized() -> None:
    block = BY_NAME["databricks/dbrx-base"]["ffn_config"] | {"moe_normalize_expert_weights": None}
    assert written(BY_NAME["databricks/dbrx-base"] | {"ffn_config": block})["moe"]["normalization_mode"] == 0


@pytest.mark.parametrize(
    ("changes", "mode"),
    [
        ({}, 3),
        ({"topk_method": "greedy", "routed_scaling_factor": 1.0}, 0),
        # One group of all experts, but their weights are scaled.
        ({"n_group": 1, "topk_group": 1}, 3),
    ],
)  # fmt: skip
def test_normalization_modes_of_deepseek_are_upstreams(changes: dict[str, Any], mode: int) -> None:
    assert written(BY_NAME[DEEPSEEK] | changes)["moe"]["normalization_mode"] == mode


def test_deepseek_writes_transformers_5s_rope_in_the_formats_spelling() -> None:
    yarn = BY_NAME[DEEPSEEK]["rope_scaling"]
    parameters = yarn | {"rope_type": "yarn", "rope_theta": 10000.0}
    config = {key: value for key, value in BY_NAME[DEEPSEEK].items() if not key.startswith("rope")}
    assert written(config | {"rope_parameters": parameters})["rotary_scaling"] == yarn
