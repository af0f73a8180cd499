"""The forms of layers with experts.

What a case must compute is not here: transformers says so.
"""

from __future__ import annotations

from typing import Any

from tests.support.layer_forms.case import HEADS, HIDDEN, KV_HEADS, LAYERS, PLAIN_ROPE, Case
from tests.support.layer_forms.layers import (
    dbrx_layer,
    deepseek_layer,
    phimoe_layer,
)


def moe(routing: int, **further: Any) -> dict[str, Any]:
    return {"num_experts": 4, "top_k": 2, "normalization_mode": routing, **further}


def deepseek(name: str, settings: dict[str, Any], config: dict[str, Any]) -> Case:
    return Case(
        f"deepseek_v2 {name}",
        "deepseek_v2",
        {
            "num_key_value_heads": HEADS,
            "q_lora_rank": None,
            "kv_lora_rank": 20,
            "qk_nope_head_dim": 16,
            "qk_rope_head_dim": 8,
            "v_head_dim": 12,
            "n_routed_experts": 8,
            "moe_intermediate_size": 32,
            "n_shared_experts": 2,
            "first_k_dense_replace": 1,
            "num_experts_per_tok": 3,
            **settings,
        },
        "DeepseekV2ForCausalLM",
        {
            "hidden_act": "swiglu",
            "q_lora_rank": None,
            "kv_lora_rank": 20,
            "qk_nope_head_dim": 16,
            "qk_rope_head_dim": 8,
            "v_head_dim": 12,
            "moe_inter_size": 32,
            **config,
        },
        deepseek_layer,
        experts=True,
    )


YARN = {
    "type": "yarn",
    "factor": 4.0,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 0.7,
    "mscale_all_dim": 0.5,
    "original_max_position_embeddings": 16,
}

EXPERTS = (
    Case(
        "phimoe",
        "phimoe",
        {
            "num_local_experts": 4,
            "attention_bias": True,
            "lm_head_bias": True,
            "sliding_window": None,
            "rope_parameters": PLAIN_ROPE,
        },
        "PhiMoEForCausalLM",
        {"hidden_act": "swiglu", "moe": moe(2, sparse_mixer_epsilon=0.01)},
        phimoe_layer,
        experts=True,
    ),
    deepseek(
        "with groups",
        {
            "q_lora_rank": 24,
            "topk_method": "group_limited_greedy",
            "n_group": 4,
            "topk_group": 2,
            "routed_scaling_factor": 2.0,
            "rope_parameters": {**YARN, "rope_type": "yarn", "rope_theta": 1e4},
        },
        {
            "q_lora_rank": 24,
            "rotary_scaling": YARN,
            "moe": {
                "num_experts": 8,
                "top_k": 3,
                "normalization_mode": 3,
                "shared_expert_intermediate_size": 64,
                "device_limited_n_group": 4,
                "device_limited_topk_group": 2,
                "device_limited_routed_scaling_factor": 2.0,
            },
        },
    ),
    deepseek(
        "lite",
        {"topk_method": "greedy", "routed_scaling_factor": 1.0},
        {
            "moe": {
                "num_experts": 8,
                "top_k": 3,
                "normalization_mode": 0,
                "shared_expert_intermediate_size": 64,
            }
        },
    ),
    Case(
        "dbrx",
        "dbrx",
        {
            "d_model": HIDDEN,
            "n_heads": HEADS,
            "n_layers": LAYERS,
            "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
            "attn_config": {"kv_n_heads": KV_HEADS, "clip_qkv": 0.7, "rope_theta": 10000.0},
        },
        "DbrxForCausalLM",
        {"hidden_act": "swiglu", "intermediate_size": 32, "clip_qkv": 0.7, "moe": moe(1)},
        dbrx_layer,
        "transformer.blocks.{}.",
        {
            "transformer.vocab_embedding.weight": "transformer.wte.weight",
            "transformer.ln_f": "transformer.norm_f",
            "lm_head": "lm_head",
        },
        experts=True,
    ),
)
