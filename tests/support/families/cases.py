"""The tiny model of every family, one case or more each; families with no transformers class have a twin.

It builds nothing: `families` does.
"""

from __future__ import annotations

from tests.support.families.configs import FamilyCase
from tests.support.families.exports import (
    alibi_instead_of_rope,
    export_baichuan,
    export_baichuan_13b,
    export_chatglm,
    export_internlm2,
    export_qwen1,
    unit_head,
)

MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "decoder_sparse_step": 1}

GPT = {"n_embd": 64, "n_layer": 3, "n_head": 8, "n_positions": 128, "n_inner": 96}
FALCON = {"num_kv_heads": 8, "ffn_hidden_size": 96, "tie_word_embeddings": True}

GEMMA = {"head_dim": 16, "tie_word_embeddings": True, "sliding_window": 8}

ROPE = {"rope_type": "default", "rope_theta": 20000.0}

DEEPSEEK = {
    "num_key_value_heads": 8,
    "kv_lora_rank": 20,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "n_routed_experts": 8,
    "moe_intermediate_size": 32,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "num_experts_per_tok": 3,
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 0.7,
        "mscale_all_dim": 0.5,
        "original_max_position_embeddings": 16,
    },
}

CASES = (
    FamilyCase("llama", "llama", {}),
    FamilyCase("llama, biased", "llama", {"attention_bias": True, "mlp_bias": True}),
    FamilyCase("mistral", "mistral", {"sliding_window": 8}),
    FamilyCase(
        "mixtral",
        "mixtral",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
        moe_ep=2,
    ),
    FamilyCase(
        "qwen",
        "qwen2",
        {"num_key_value_heads": 8, "rms_norm_eps": 1e-6},
        twin="Qwen2ForCausalLM, its q, k, v fused",
        export=export_qwen1,
    ),
    FamilyCase("qwen2", "qwen2", {}),
    FamilyCase(
        "qwen2, upper layers windowed",
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    ),
    FamilyCase(
        "qwen2_moe",
        "qwen2_moe",
        {**MOE, "shared_expert_intermediate_size": 80, "norm_topk_prob": False},
        moe_ep=2,
    ),
    FamilyCase("qwen3", "qwen3", {"head_dim": 24}),
    FamilyCase("qwen3_moe", "qwen3_moe", {**MOE, "head_dim": 16, "norm_topk_prob": True}, moe_ep=2),
    FamilyCase(
        "granite",
        "granite",
        {
            "embedding_multiplier": 3.0,
            "attention_multiplier": 0.2,
            "residual_multiplier": 0.5,
            "logits_scaling": 2.0,
        },
    ),
    FamilyCase("internlm2", "llama", {}, twin="LlamaForCausalLM, its q, k, v fused", export=export_internlm2),
    FamilyCase("nemotron", "nemotron", {"head_dim": 16, "partial_rotary_factor": 0.5}),
    FamilyCase("gpt2", "gpt2", {**GPT, "tie_word_embeddings": True}),
    FamilyCase("gpt_bigcode", "gpt_bigcode", GPT),
    FamilyCase("gpt_bigcode, many keys", "gpt_bigcode", {**GPT, "multi_query": False}),
    FamilyCase("starcoder2", "starcoder2", {"sliding_window": 8, "use_bias": True}),
    FamilyCase("gpt_neox", "gpt_neox", {"rotary_pct": 0.5, "intermediate_size": 256}, pads=False),
    FamilyCase("gptj", "gptj", {**GPT, "n_inner": 256, "rotary_dim": 4}, pads=False),
    FamilyCase(
        "opt", "opt", {"ffn_dim": 96, "word_embed_proj_dim": 64, "tie_word_embeddings": True}, pads=False
    ),
    FamilyCase("bloom", "bloom", {"n_layer": 3, "n_head": 8, "tie_word_embeddings": True}, pads=False),
    FamilyCase(
        "mpt",
        "mpt",
        {
            "n_layers": 3,
            "n_heads": 8,
            "d_model": 64,
            "max_seq_len": 128,
            "tie_word_embeddings": True,
            # alibi_bias_max stays 8: transformers ignores another.
            "attn_config": {"clip_qkv": 1.0},
        },
        pads=False,
    ),
    FamilyCase(
        "baichuan, rotary",
        "llama",
        {"num_key_value_heads": 8},
        twin="LlamaForCausalLM, its q, k, v fused",
        adapt=unit_head,
        export=export_baichuan,
        pads=False,
    ),
    FamilyCase(
        "baichuan, alibi",
        "llama",
        {"num_key_value_heads": 8},
        twin="LlamaForCausalLM, a mask of distances for its rope",
        adapt=alibi_instead_of_rope,
        export=export_baichuan_13b,
        pads=False,
    ),
    FamilyCase(
        "chatglm",
        "glm",
        {"head_dim": 8, "rope_parameters": {"rope_theta": 30000.0, "partial_rotary_factor": 0.5}},
        twin="GlmForCausalLM, its q, k, v fused",
        export=export_chatglm,
        pads=False,
    ),
    FamilyCase("falcon, one key", "falcon", {**FALCON, "multi_query": True}, pads=False),
    FamilyCase(
        "falcon, grouped keys",
        "falcon",
        {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2},
        pads=False,
    ),
    FamilyCase(
        "falcon, grouped keys and one norm",
        "falcon",
        {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1},
        pads=False,
    ),
    FamilyCase(
        "falcon, alibi",
        "falcon",
        {**FALCON, "alibi": True, "bias": True, "multi_query": False, "parallel_attn": False},
        pads=False,
    ),
    FamilyCase("gemma", "gemma", {**GEMMA, "num_key_value_heads": 1}),
    FamilyCase(
        "gemma2",
        "gemma2",
        {**GEMMA, "query_pre_attn_scalar": 20, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 8.0},
    ),
    FamilyCase(
        "gemma3",
        "gemma3_text",
        {
            **GEMMA,
            "query_pre_attn_scalar": 20,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 50000.0},
            },
        },
    ),
    FamilyCase("phi2", "phi", {"partial_rotary_factor": 0.5}, pads=False),
    FamilyCase("phi3", "phi3", {"sliding_window": 8}, pads=False),
    FamilyCase(
        "phi3, long rope",
        "phi3",
        {
            "sliding_window": None,
            "original_max_position_embeddings": 64,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "short_factor": [1.0 + 0.1 * pair for pair in range(4)],
                "long_factor": [2.0 + 0.3 * pair for pair in range(4)],
                "original_max_position_embeddings": 64,
            },
        },
        pads=False,
    ),
    FamilyCase(
        "phimoe",
        "phimoe",
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "attention_bias": True,
            "lm_head_bias": True,
            "router_jitter_noise": 0.01,
        },
        moe_ep=2,
        pads=False,
    ),
    FamilyCase(
        "cohere",
        "cohere",
        {"logit_scale": 0.25, "use_qk_norm": True, "tie_word_embeddings": True, "rope_parameters": ROPE},
    ),
    FamilyCase(
        "cohere, biased and untied",
        "cohere",
        {"logit_scale": 0.5, "attention_bias": True, "rope_parameters": ROPE},
    ),
    FamilyCase(
        "dbrx",
        "dbrx",
        {
            "d_model": 64,
            "n_heads": 8,
            "n_layers": 3,
            "max_seq_len": 128,
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 0.7, "rope_theta": 20000.0},
            "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
            "rope_parameters": ROPE,
        },
        moe_ep=2,
        pads=False,
    ),
    FamilyCase(
        "deepseek_v2",
        "deepseek_v2",
        {
            **DEEPSEEK,
            "q_lora_rank": 24,
            "topk_method": "group_limited_greedy",
            "n_group": 4,
            "topk_group": 2,
            "routed_scaling_factor": 2.0,
        },
        moe_ep=2,
    ),
    FamilyCase(
        "deepseek_v2, queries not compressed",
        "deepseek_v2",
        {**DEEPSEEK, "q_lora_rank": None, "topk_method": "greedy", "routed_scaling_factor": 1.0},
        moe_ep=2,
    ),
)
