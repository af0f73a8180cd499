"""tpforge.architectures: sizes out of config.json, the kinds of layers, what divides, what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tpforge.architectures.declared import read_declared
from tpforge.architectures.division import division_problems, ep_sizes, require_division, tp_sizes
from tpforge.architectures.expressions import Absent, NotANumber, evaluate
from tpforge.architectures.layer_kinds import RULES, layer_kinds
from tpforge.architectures.table import architectures, block, known_classes
from tpforge.errors import InputRefused, PlanError
from tpforge.trtllm.architectures import architecture_support

HYBRID: dict[str, Any] = {
    "architectures": ["Qwen3NextForCausalLM"],
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 100,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "max_position_embeddings": 512,
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("config.a | 7", 3),
        ("config.none | 7", 7),
        ("config.inner.b * size", 20),
        ("(config.missing | 0) * size + 1", 1),
        ("len(config.many)", 2),
        ("config.many_absent.x | len(config.many) | 9", 2),
        ("config.flag + 1", 2),
        ("size > 3", 1),
        ("config.a // 2", 1),
    ],
)
def test_an_expression_is_worked_out_of_config_and_sizes(text: str, value: int) -> None:
    config = {"a": 3, "none": None, "inner": {"b": 4.0}, "many": [1, 2], "flag": True}
    assert evaluate(text, sizes={"size": 5}, config=config) == value


def test_an_expression_names_the_key_that_is_absent_or_no_number() -> None:
    with pytest.raises(Absent, match=r"inner\.b"):
        evaluate("config.inner.b", sizes={}, config={"inner": {}})
    with pytest.raises(NotANumber, match=r"a is 'wide', expected a whole number"):
        evaluate("config.a | 1", sizes={}, config={"a": "wide"})


def test_the_layers_of_a_hybrid_have_a_cache_or_a_state() -> None:
    model = read_declared(HYBRID, where="config.json")
    assert model.attention_kinds == ("linear_attention",) * 3 + ("full_attention",)
    grows = [any(not one.is_per_request for one in layer.caches) for layer in model.layers]
    assert grows == [False, False, False, True]
    assert model.layers[3].caches[0].values == 2 * 2 * 32
    state, columns = (one.num_bytes for one in model.layers[0].caches)
    assert state == 4 * (4 * 8 * 8)
    assert columns == 2 * 3 * (2 * 2 * 8 + 4 * 8)


def test_active_parameters_count_the_experts_that_a_token_meets() -> None:
    model = read_declared(HYBRID, where="config.json")
    experts = 4 * 8 * 3 * 16 * 64
    assert model.num_parameters - model.num_active_parameters == experts * 6 // 8


def test_every_missing_size_is_named_and_no_file_is_guessed() -> None:
    for key in ("hidden_size", "num_attention_heads", "vocab_size", "num_experts_per_tok"):
        without = {name: value for name, value in HYBRID.items() if name != key}
        with pytest.raises(InputRefused, match=key):
            read_declared(without, where="config.json")


def test_a_value_that_is_no_number_is_refused_by_its_key() -> None:
    with pytest.raises(InputRefused, match="hidden_size is 'big'"):
        read_declared({**HYBRID, "hidden_size": "big"}, where="config.json")
    with pytest.raises(InputRefused, match="2 layers, num_hidden_layers is 4"):
        read_declared({**HYBRID, "layer_types": ["full_attention"] * 2}, where="config.json")
    with pytest.raises(InputRefused, match="'windowed'"):
        read_declared({**HYBRID, "layer_types": ["windowed"] * 4}, where="config.json")


def test_an_unknown_class_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputRefused, match="nearest are Qwen3NextForCausalLM"):
        read_declared({**HYBRID, "architectures": ["Qwen4NextForCausalLM"]}, where="config.json")


def test_the_ranks_that_divide_a_model_divide_heads_widths_and_experts() -> None:
    model = read_declared(HYBRID, where="config.json")
    assert tp_sizes(model) == (1, 2, 4)
    assert ep_sizes(model) == (1, 2, 4, 8)
    assert "4 attention heads" in division_problems(model, tp_size=3)
    with pytest.raises(PlanError, match=r"use tp=1, 2, 4"):
        require_division(model, tp_size=8)


@pytest.mark.parametrize(
    ("rule", "config", "kinds"),
    [
        ("full_interval", {"full_attention_interval": 2}, ["linear_attention", "full_attention"] * 2),
        ("sparse_step", {"decoder_sparse_step": 2, "mlp_only_layers": [1]}, ["dense"] * 3 + ["sparse"]),
        ("first_dense", {"first_k_dense_replace": 1, "moe_layer_freq": 1}, ["dense"] + ["sparse"] * 3),
        ("first_dense", {"moe_layer_freq": [0, 1, 1, 0]}, ["dense", "sparse", "sparse", "dense"]),
        ("moe_step", {"interleave_moe_layer_step": 2}, ["dense", "sparse"] * 2),
        ("no_rope_layers", {}, ["chunked_attention"] * 3 + ["full_attention"]),
        ("compress_ratios", {"compress_ratios": [0, 4, 128, 4]}, ["window", "by_4", "by_128", "by_4"]),
        ("block_types", {"hybrid_override_pattern": "M*-E"}, ["mamba", "attention", "mlp", "moe"]),
        (
            "kimi_layers",
            {"linear_attn_config": {"full_attn_layers": [2, 4]}},
            ["linear_attention", "full_attention"] * 2,
        ),
        ("gemma4_mlp", {"num_kv_shared_layers": 1, "use_double_wide_mlp": True}, ["dense"] * 3 + ["wide"]),
    ],
)
def test_a_rule_gives_the_kind_of_every_layer(rule: str, config: dict[str, Any], kinds: list[str]) -> None:
    assert layer_kinds(rule, config, num_layers=4, only="full") == kinds


def test_every_rule_and_block_of_the_table_is_there_and_used() -> None:
    rows = architectures()
    rules = {kinds.rule for row in rows for kinds in (row.attention, row.mlp)}
    assert rules - {"same"} <= set(RULES)
    for row in rows:
        for kinds in (row.attention, row.mlp):
            for uses in kinds.kinds.values():
                assert all(block(use.block).source for use in uses)


def test_every_class_of_the_table_is_one_that_tensorrt_llm_runs() -> None:
    assert [name for name in known_classes() if not architecture_support(name)] == []


def test_a_tied_head_is_counted_once() -> None:
    untied = read_declared(HYBRID, where="config.json").num_parameters
    tied = read_declared({**HYBRID, "tie_word_embeddings": True}, where="config.json").num_parameters
    assert untied - tied == math.prod((100, 64))
