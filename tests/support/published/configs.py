"""The config.json of published models, and what TensorRT-LLM 1.2's own conversion writes for them.

The configs are those of the model's page on the hub, without keys that say nothing of the weights. What is
written was derived by hand from upstream's from_hugging_face and to_dict of each family (models/*/config.py)
or, where a family has none, from its examples' convert_checkpoint.py; never from our tables. What upstream
writes for every model alike is in `ALIKE`. Known differences, which change nothing that is computed, are
said beside the value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Config = dict[str, Any]


@dataclass(frozen=True)
class Published:
    """A model of the hub: its config.json and, at tp=1, all that is written beside `ALIKE`."""

    name: str
    config: Config
    written: Config

    def __str__(self) -> str:
        return self.name


ALIKE: Config = {
    "logits_dtype": "float32",
    "use_parallel_embedding": False,
    "embedding_sharding_dim": 0,
    "qk_layernorm": False,
    "runtime_defaults": None,
    "has_partial_lora_mask": False,
    "quantization": {
        "quant_algo": None, "kv_cache_quant_algo": None, "group_size": 128, "smoothquant_val": 0.5,
        "clamp_val": None, "use_meta_recipe": False, "has_zero_point": False, "pre_quant_scale": False,
        "exclude_modules": None,
    },
    "mapping": {
        "world_size": 1, "gpus_per_node": 8, "cp_size": 1, "tp_size": 1, "pp_size": 1, "moe_tp_size": 1,
        "moe_cluster_size": 1, "moe_ep_size": 1, "attn_tp_size": 1, "attn_cp_size": 1, "cp_config": {},
        "enable_attention_dp": False, "enable_lm_head_tp_in_adp": False,
    },
}  # fmt: skip


def moe(**given: Any) -> Config:
    """MoeConfig.to_dict(), its defaults and what is given."""
    return {
        "num_experts": 0, "shared_expert_intermediate_size": 0, "top_k": 0, "normalization_mode": None,
        "sparse_mixer_epsilon": 0.01, "tp_mode": 0, "device_limited_n_group": 0,
        "device_limited_topk_group": 0, "device_limited_routed_scaling_factor": 1.0,
    } | given  # fmt: skip


LLAMA_ALIKE: Config = {
    "mlp_bias": False, "attn_bias": False, "residual_mlp": False, "disable_weight_only_quant_plugin": False,
    "moe": moe(), "remove_duplicated_kv_heads": False, "fc_after_embed": False,
    "use_input_layernorm_in_first_layer": True, "use_last_layernorm": True, "layer_idx_offset": 0,
    "embedding_multiplier": 1.0, "attention_multiplier": 1.0, "residual_multiplier": 1.0,
    "output_multiplier_scale": 1.0,
}  # fmt: skip
QWEN_ALIKE: Config = {
    "mlp_bias": False, "attn_bias": True, "disable_weight_only_quant_plugin": False, "use_logn_attn": False,
    "moe": moe(normalization_mode=0), "num_labels": 1, "seq_length": 8192, "moe_intermediate_size": 0,
    "moe_shared_expert_intermediate_size": 0,
}  # fmt: skip
LLAMA31_ROPE: Config = {
    "factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192, "rope_type": "llama3",
}  # fmt: skip
DEEPSEEK_YARN: Config = {
    "beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 0.707, "mscale_all_dim": 0.707,
    "original_max_position_embeddings": 4096, "type": "yarn",
}  # fmt: skip
# The published lists have 48 numbers each, up to 64.
LONG, SHORT = [1.0 + pair for pair in range(48)], [1.0 + pair / 50 for pair in range(48)]

# fmt: off
PUBLISHED = (
    Published("meta-llama/Llama-3.1-8B", {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "bos_token_id": 128000,
        "eos_token_id": 128001, "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
        "max_position_embeddings": 131072, "mlp_bias": False, "model_type": "llama",
        "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
        "rope_scaling": LLAMA31_ROPE, "rope_theta": 500000.0, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16", "vocab_size": 128256,
    }, {
        **LLAMA_ALIKE, "architecture": "LlamaForCausalLM", "dtype": "bfloat16", "vocab_size": 128256,
        "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "head_size": 128, "hidden_act": "silu", "intermediate_size": 14336, "norm_epsilon": 1e-05,
        "position_embedding_type": "rope_gpt_neox", "max_position_embeddings": 131072,
        "rotary_embedding_dim": 128, "rotary_base": 500000.0, "rotary_scaling": LLAMA31_ROPE,
        "tie_word_embeddings": False,
    }),
    Published("mistralai/Mixtral-8x7B-v0.1", {
        "architectures": ["MixtralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
        "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 32768,
        "model_type": "mixtral", "num_attention_heads": 32, "num_experts_per_tok": 2,
        "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 8,
        "output_router_logits": False, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0,
        "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "vocab_size": 32000,
    }, {
        **LLAMA_ALIKE, "architecture": "MixtralForCausalLM", "dtype": "bfloat16", "vocab_size": 32000,
        "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "head_size": 128, "hidden_act": "swiglu", "intermediate_size": 14336, "norm_epsilon": 1e-05,
        "position_embedding_type": "rope_gpt_neox", "max_position_embeddings": 32768,
        "rotary_embedding_dim": 128, "rotary_base": 1000000.0, "rotary_scaling": None,
        "tie_word_embeddings": False, "moe": moe(num_experts=8, top_k=2, normalization_mode=1),
    }),
    Published("ibm-granite/granite-3.1-8b-base", {
        "architectures": ["GraniteForCausalLM"], "attention_bias": False, "attention_multiplier": 0.0078125,
        "bos_token_id": 0, "embedding_multiplier": 12.0, "eos_token_id": 0, "hidden_act": "silu",
        "hidden_size": 4096, "intermediate_size": 12800, "logits_scaling": 16.0,
        "max_position_embeddings": 131072, "mlp_bias": False, "model_type": "granite",
        "num_attention_heads": 32, "num_hidden_layers": 40, "num_key_value_heads": 8, "pad_token_id": 0,
        "residual_multiplier": 0.22, "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 10000000.0,
        "tie_word_embeddings": True, "torch_dtype": "bfloat16", "vocab_size": 49152,
    }, {
        **LLAMA_ALIKE, "architecture": "GraniteForCausalLM", "dtype": "bfloat16", "vocab_size": 49152,
        "hidden_size": 4096, "num_hidden_layers": 40, "num_attention_heads": 32, "num_key_value_heads": 8,
        "head_size": 128, "hidden_act": "silu", "intermediate_size": 12800, "norm_epsilon": 1e-05,
        "position_embedding_type": "rope_gpt_neox", "max_position_embeddings": 131072,
        "rotary_embedding_dim": 128, "rotary_base": 10000000.0, "rotary_scaling": None,
        "tie_word_embeddings": True, "embedding_multiplier": 12.0,
        "attention_multiplier": 0.0078125 * 128**0.5, "residual_multiplier": 0.22,
        "output_multiplier_scale": 1 / 16,
    }),
    Published("Qwen/Qwen2.5-7B", {
        "architectures": ["Qwen2ForCausalLM"], "bos_token_id": 151643, "eos_token_id": 151643,
        "hidden_act": "silu", "hidden_size": 3584, "intermediate_size": 18944,
        "max_position_embeddings": 131072, "max_window_layers": 28, "model_type": "qwen2",
        "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0, "sliding_window": 131072, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16", "use_mrope": False, "use_sliding_window": False, "vocab_size": 152064,
    }, {
        **QWEN_ALIKE, "architecture": "Qwen2ForCausalLM", "dtype": "bfloat16", "vocab_size": 152064,
        "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
        "head_size": 128, "hidden_act": "silu", "intermediate_size": 18944, "norm_epsilon": 1e-06,
        "position_embedding_type": "rope_gpt_neox", "max_position_embeddings": 131072,
        "rotary_embedding_dim": 128, "rotary_base": 1000000.0, "rotary_scaling": None,
        "tie_word_embeddings": False, "qwen_type": "qwen2",
    }),
    Published("Qwen/Qwen1.5-MoE-A2.7B", {
        "architectures": ["Qwen2MoeForCausalLM"], "bos_token_id": 151643, "decoder_sparse_step": 1,
        "eos_token_id": 151643, "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 5632,
        "max_position_embeddings": 8192, "max_window_layers": 21, "model_type": "qwen2_moe",
        "moe_intermediate_size": 1408, "norm_topk_prob": False, "num_attention_heads": 16,
        "num_experts": 60, "num_experts_per_tok": 4, "num_hidden_layers": 24, "num_key_value_heads": 16,
        "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "shared_expert_intermediate_size": 5632,
        "sliding_window": 32768, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
        "use_sliding_window": False, "vocab_size": 151936,
    }, {
        **QWEN_ALIKE, "architecture": "Qwen2MoeForCausalLM", "dtype": "bfloat16", "vocab_size": 151936,
        "hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 16, "num_key_value_heads": 16,
        "head_size": 128, "hidden_act": "swiglu", "intermediate_size": 5632, "norm_epsilon": 1e-06,
        "position_embedding_type": "rope_gpt_neox", "max_position_embeddings": 8192,
        "rotary_embedding_dim": 128, "rotary_base": 1000000.0, "rotary_scaling": None,
        "tie_word_embeddings": False, "qwen_type": "qwen2_moe", "moe_intermediate_size": 1408,
        "moe_shared_expert_intermediate_size": 5632, "mlp_only_layers": [], "decoder_sparse_step": 1,
        "moe": moe(num_experts=60, top_k=4, normalization_mode=0),
    }),
    Published("Qwen/Qwen3-30B-A3B", {
        "architectures": ["Qwen3MoeForCausalLM"], "attention_bias": False, "bos_token_id": 151643,
        "decoder_sparse_step": 1, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu",
        "hidden_size": 2048, "intermediate_size": 6144, "max_position_embeddings": 40960,
        "max_window_layers": 48, "mlp_only_layers": [], "model_type": "qwen3_moe",
        "moe_intermediate_size": 768, "norm_topk_prob": True, "num_attention_heads": 32, "num_experts": 128,
        "num_experts_per_tok": 8, "num_hidden_layers": 48, "num_key_value_heads": 4, "rms_norm_eps": 1e-06,
        "rope_scaling": None, "rope_theta": 1000000.0, "sliding_window": None,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "use_sliding_window": False,
        "vocab_size": 151936,
    }, {
        **QWEN_ALIKE, "architecture": "Qwen3MoeForCausalLM", "dtype": "bfloat16", "vocab_size": 151936,
        "hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4,
        "head_size": 128, "hidden_act": "swiglu", "intermediate_size": 6144, "norm_epsilon": 1e-06,
        "position_embedding_type": "rope_gpt_neox", "max_position_embeddings": 40960,
        "rotary_embedding_dim": 128, "rotary_base": 1000000.0, "rotary_scaling": None,
        "tie_word_embeddings": False, "attn_bias": False, "qk_layernorm": True, "qwen_type": "qwen3_moe",
        "moe_intermediate_size": 768, "mlp_only_layers": [], "decoder_sparse_step": 1,
        "moe": moe(num_experts=128, top_k=8, normalization_mode=1),
    }),
    Published("google/gemma-2-9b", {
        "architectures": ["Gemma2ForCausalLM"], "attention_bias": False, "attn_logit_softcapping": 50.0,
        "bos_token_id": 2, "eos_token_id": 1, "final_logit_softcapping": 30.0, "head_dim": 256,
        "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 3584,
        "intermediate_size": 14336, "max_position_embeddings": 8192, "model_type": "gemma2",
        "num_attention_heads": 16, "num_hidden_layers": 42, "num_key_value_heads": 8, "pad_token_id": 0,
        "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "sliding_window": 4096,
        "sliding_window_size": 4096, "torch_dtype": "float32", "vocab_size": 256000,
    }, {
        # Upstream makes float16 of float32.
        "architecture": "Gemma2ForCausalLM", "dtype": "float32", "vocab_size": 256000, "hidden_size": 3584,
        "num_hidden_layers": 42, "num_attention_heads": 16, "num_key_value_heads": 8, "head_size": 256,
        "hidden_act": "gelu_pytorch_tanh", "intermediate_size": 14336, "norm_epsilon": 1e-06,
        "position_embedding_type": "rope_gpt_neox", "max_position_embeddings": 8192,
        "rotary_embedding_dim": 256, "rotary_base": 10000.0, "rotary_scaling": None, "attn_bias": False,
        "mlp_bias": False, "inter_layernorms": True, "query_pre_attn_scalar": 256,
        "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0,
        # Not written by upstream, whose Gemma is always tied.
        "tie_word_embeddings": True,
    }),
    Published("microsoft/phi-2", {
        "architectures": ["PhiForCausalLM"], "bos_token_id": 50256, "eos_token_id": 50256,
        "hidden_act": "gelu_new", "hidden_size": 2560, "intermediate_size": 10240, "layer_norm_eps": 1e-05,
        "max_position_embeddings": 2048, "model_type": "phi", "num_attention_heads": 32,
        "num_hidden_layers": 32, "num_key_value_heads": 32, "partial_rotary_factor": 0.4,
        "qk_layernorm": False, "rope_scaling": None, "rope_theta": 10000.0, "tie_word_embeddings": False,
        "torch_dtype": "float16", "vocab_size": 51200,
    }, {
        "architecture": "PhiForCausalLM", "dtype": "float16", "vocab_size": 51200, "hidden_size": 2560,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "head_size": 80,
        "hidden_act": "gelu_new", "intermediate_size": 10240, "norm_epsilon": 1e-05,
        "position_embedding_type": "rope_gpt_neox", "max_position_embeddings": 2048,
        "rotary_embedding_dim": 32, "rotary_base": 10000.0, "rotary_scaling": None, "rotary_pct": 0.4,
        "tie_word_embeddings": False,
    }),
    Published("microsoft/Phi-3-mini-4k-instruct", {
        "architectures": ["Phi3ForCausalLM"], "attention_bias": False, "bos_token_id": 1,
        "eos_token_id": 32000, "hidden_act": "silu", "hidden_size": 3072, "intermediate_size": 8192,
        "max_position_embeddings": 4096, "model_type": "phi3", "num_attention_heads": 32,
        "num_hidden_layers": 32, "num_key_value_heads": 32, "original_max_position_embeddings": 4096,
        "pad_token_id": 32000, "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 10000.0,
        "sliding_window": 2047, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "vocab_size": 32064,
    }, {
        "architecture": "Phi3ForCausalLM", "dtype": "bfloat16", "vocab_size": 32064, "hidden_size": 3072,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "head_size": 96,
        "hidden_act": "swiglu", "intermediate_size": 8192, "norm_epsilon": 1e-05,
        "position_embedding_type": "rope_gpt_neox", "max_position_embeddings": 4096,
        "rotary_embedding_dim": 96, "rotary_base": 10000.0, "rotary_scaling": None, "rotary_pct": 1.0,
        "tie_word_embeddings": False,
    }),
    Published("microsoft/Phi-3-mini-128k-instruct", {
        "architectures": ["Phi3ForCausalLM"], "attention_bias": False, "bos_token_id": 1,
        "eos_token_id": 32000, "hidden_act": "silu", "hidden_size": 3072, "intermediate_size": 8192,
        "max_position_embeddings": 131072, "model_type": "phi3", "num_attention_heads": 32,
        "num_hidden_layers": 32, "num_key_value_heads": 32, "original_max_position_embeddings": 4096,
        "pad_token_id": 32000, "rms_norm_eps": 1e-05,
        "rope_scaling": {"long_factor": LONG, "short_factor": SHORT, "type": "longrope"},
        "rope_theta": 10000.0, "sliding_window": 262144, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16", "vocab_size": 32064,
    }, {
        "architecture": "Phi3ForCausalLM", "dtype": "bfloat16", "vocab_size": 32064, "hidden_size": 3072,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "head_size": 96,
        "hidden_act": "swiglu", "intermediate_size": 8192, "norm_epsilon": 1e-05,
        "position_embedding_type": "long_rope", "max_position_embeddings": 131072,
        "rotary_embedding_dim": 96, "rotary_base": 10000.0, "rotary_scaling": None, "rotary_pct": 1.0,
        "tie_word_embeddings": False, "original_max_position_embeddings": 4096,
        "longrope_scaling_short_factors": SHORT, "longrope_scaling_long_factors": LONG,
    }),
    Published("tiiuae/falcon-40b", {
        "alibi": False, "architectures": ["FalconForCausalLM"], "bias": False, "bos_token_id": 11,
        "eos_token_id": 11, "hidden_size": 8192, "layer_norm_epsilon": 1e-05, "model_type": "falcon",
        "multi_query": True, "new_decoder_architecture": True, "num_attention_heads": 128,
        "num_hidden_layers": 60, "num_kv_heads": 8, "parallel_attn": True, "torch_dtype": "bfloat16",
        "vocab_size": 65024,
    }, {
        "architecture": "FalconForCausalLM", "dtype": "bfloat16", "vocab_size": 65024, "hidden_size": 8192,
        "num_hidden_layers": 60, "num_attention_heads": 128, "num_key_value_heads": 8, "head_size": 64,
        "hidden_act": "gelu", "intermediate_size": 32768, "norm_epsilon": 1e-05,
        "position_embedding_type": "rope_gpt_neox", "max_position_embeddings": 2048,
        "rotary_embedding_dim": 64, "bias": False, "parallel_attention": True,
        "new_decoder_architecture": True, "rotary_base": 10000.0,
        # Upstream writes null here and takes 2 for it.
        "num_ln_in_parallel_attn": 2,
        # Not written by upstream, whose LM head is a tensor of its own.
        "tie_word_embeddings": True,
    }),
    Published("EleutherAI/gpt-j-6b", {
        "activation_function": "gelu_new", "architectures": ["GPTJForCausalLM"], "bos_token_id": 50256,
        "eos_token_id": 50256, "layer_norm_epsilon": 1e-05, "model_type": "gptj", "n_embd": 4096,
        "n_head": 16, "n_inner": None, "n_layer": 28, "n_positions": 2048, "rotary": True,
        "rotary_dim": 64, "tie_word_embeddings": False, "vocab_size": 50400, "torch_dtype": "float16",
    }, {
        # "gelu_new" and "gelu", which upstream writes, are one function in TensorRT-LLM.
        "architecture": "GPTJForCausalLM", "dtype": "float16", "vocab_size": 50400, "hidden_size": 4096,
        "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 16, "head_size": 256,
        "hidden_act": "gelu_new", "intermediate_size": 16384, "norm_epsilon": 1e-05,
        "position_embedding_type": "rope_gptj", "max_position_embeddings": 2048,
        # Upstream writes the head size, which is not used.
        "rotary_embedding_dim": 64, "rotary_dim": 64, "tie_word_embeddings": False,
    }),
    Published("CohereForAI/c4ai-command-r-v01", {
        "architectures": ["CohereForCausalLM"], "attention_bias": False, "bos_token_id": 5,
        "eos_token_id": 255001, "hidden_act": "silu", "hidden_size": 8192, "intermediate_size": 22528,
        "layer_norm_eps": 1e-05, "logit_scale": 0.0625, "max_position_embeddings": 8192,
        "model_max_length": 131072, "model_type": "cohere", "num_attention_heads": 64,
        "num_hidden_layers": 40, "num_key_value_heads": 64, "pad_token_id": 0, "pretraining_tp": 1,
        "rope_theta": 8000000.0, "torch_dtype": "float16", "use_cache": True, "vocab_size": 256000,
    }, {
        "architecture": "CohereForCausalLM", "dtype": "float16", "vocab_size": 256000, "hidden_size": 8192,
        "num_hidden_layers": 40, "num_attention_heads": 64, "num_key_value_heads": 64, "head_size": 128,
        "hidden_act": "silu", "intermediate_size": 22528, "norm_epsilon": 1e-05,
        "position_embedding_type": "rope_gptj", "max_position_embeddings": 8192,
        "rotary_embedding_dim": 128, "use_parallel_embedding": True, "tie_word_embeddings": True,
        "output_multiplier_scale": 0.0625, "rotary_base": 8000000.0, "attn_bias": False,
    }),
    Published("databricks/dbrx-base", {
        "architectures": ["DbrxForCausalLM"],
        "attn_config": {"clip_qkv": 8, "kv_n_heads": 8, "model_type": "", "rope_theta": 500000},
        "d_model": 6144, "emb_pdrop": 0.0,
        "ffn_config": {
            "ffn_hidden_size": 10752, "model_type": "", "moe_jitter_eps": 0.01, "moe_loss_weight": 0.05,
            "moe_num_experts": 16, "moe_top_k": 4,
        },
        "initializer_range": 0.02, "max_seq_len": 32768, "model_type": "dbrx", "n_heads": 48,
        "n_layers": 40, "output_router_logits": False, "resid_pdrop": 0.0, "router_aux_loss_coef": 0.05,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "vocab_size": 100352,
    }, {
        "architecture": "DbrxForCausalLM", "dtype": "bfloat16", "vocab_size": 100352, "hidden_size": 6144,
        "num_hidden_layers": 40, "num_attention_heads": 48, "num_key_value_heads": 8, "head_size": 128,
        "hidden_act": "swiglu", "intermediate_size": 10752, "norm_epsilon": 1e-05,
        "position_embedding_type": "rope_gpt_neox", "max_position_embeddings": 32768,
        "rotary_embedding_dim": 128, "bias": False, "clip_qkv": 8, "rotary_base": 500000,
        "rotary_scaling": None, "moe": moe(num_experts=16, top_k=4, normalization_mode=1),
        "tie_word_embeddings": False,
    }),
    Published("deepseek-ai/DeepSeek-V2", {
        "architectures": ["DeepseekV2ForCausalLM"], "attention_bias": False, "aux_loss_alpha": 0.001,
        "bos_token_id": 100000, "eos_token_id": 100001, "first_k_dense_replace": 1, "hidden_act": "silu",
        "hidden_size": 5120, "intermediate_size": 12288, "kv_lora_rank": 512,
        "max_position_embeddings": 163840, "model_type": "deepseek_v2", "moe_intermediate_size": 1536,
        "moe_layer_freq": 1, "n_group": 8, "n_routed_experts": 160, "n_shared_experts": 2,
        "norm_topk_prob": False, "num_attention_heads": 128, "num_experts_per_tok": 6,
        "num_hidden_layers": 60, "num_key_value_heads": 128, "q_lora_rank": 1536, "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64, "rms_norm_eps": 1e-06, "rope_scaling": DEEPSEEK_YARN, "rope_theta": 10000,
        "routed_scaling_factor": 16.0, "scoring_func": "softmax", "seq_aux": True,
        "tie_word_embeddings": False, "topk_group": 3, "topk_method": "group_limited_greedy",
        "torch_dtype": "bfloat16", "v_head_dim": 128, "vocab_size": 102400,
    }, {
        "architecture": "DeepseekV2ForCausalLM", "dtype": "bfloat16", "vocab_size": 102400,
        "hidden_size": 5120, "num_hidden_layers": 60, "num_attention_heads": 128, "hidden_act": "swiglu",
        "intermediate_size": 12288, "norm_epsilon": 1e-06, "position_embedding_type": "rope_gpt_neox",
        "max_position_embeddings": 163840, "num_key_value_heads": 1, "head_size": 576,
        "rotary_embedding_dim": 576, "tie_word_embeddings": False, "mlp_bias": False, "attn_bias": False,
        "rotary_base": 10000, "rotary_scaling": DEEPSEEK_YARN, "residual_mlp": False,
        "disable_weight_only_quant_plugin": False, "remove_duplicated_kv_heads": False,
        "fc_after_embed": False, "use_input_layernorm_in_first_layer": True, "use_last_layernorm": True,
        "layer_idx_offset": 0, "moe_inter_size": 1536, "kv_lora_rank": 512, "q_lora_rank": 1536,
        "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
        "topk_method": "group_limited_greedy", "first_k_dense_replace": 1, "moe_layer_freq": 1,
        "scoring_func": "softmax",
        "moe": moe(
            num_experts=160, shared_expert_intermediate_size=3072, top_k=6, normalization_mode=3,
            device_limited_n_group=8, device_limited_topk_group=3, device_limited_routed_scaling_factor=16.0,
        ),
    }),
    Published("deepseek-ai/DeepSeek-V2-Lite", {
        "architectures": ["DeepseekV2ForCausalLM"], "attention_bias": False, "bos_token_id": 100000,
        "eos_token_id": 100001, "first_k_dense_replace": 1, "hidden_act": "silu", "hidden_size": 2048,
        "intermediate_size": 10944, "kv_lora_rank": 512, "max_position_embeddings": 163840,
        "model_type": "deepseek_v2", "moe_intermediate_size": 1408, "moe_layer_freq": 1, "n_group": 1,
        "n_routed_experts": 64, "n_shared_experts": 2, "norm_topk_prob": False, "num_attention_heads": 16,
        "num_experts_per_tok": 6, "num_hidden_layers": 27, "num_key_value_heads": 16, "q_lora_rank": None,
        "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "rms_norm_eps": 1e-06,
        "rope_scaling": DEEPSEEK_YARN, "rope_theta": 10000, "routed_scaling_factor": 1.0,
        "scoring_func": "softmax", "tie_word_embeddings": False, "topk_group": 1, "topk_method": "greedy",
        "torch_dtype": "bfloat16", "v_head_dim": 128, "vocab_size": 102400,
    }, {
        "architecture": "DeepseekV2ForCausalLM", "dtype": "bfloat16", "vocab_size": 102400,
        "hidden_size": 2048, "num_hidden_layers": 27, "num_attention_heads": 16, "hidden_act": "swiglu",
        "intermediate_size": 10944, "norm_epsilon": 1e-06, "position_embedding_type": "rope_gpt_neox",
        "max_position_embeddings": 163840, "num_key_value_heads": 1, "head_size": 576,
        "rotary_embedding_dim": 576, "tie_word_embeddings": False, "mlp_bias": False, "attn_bias": False,
        "rotary_base": 10000, "rotary_scaling": DEEPSEEK_YARN, "residual_mlp": False,
        "disable_weight_only_quant_plugin": False, "remove_duplicated_kv_heads": False,
        "fc_after_embed": False, "use_input_layernorm_in_first_layer": True, "use_last_layernorm": True,
        "layer_idx_offset": 0, "moe_inter_size": 1408, "kv_lora_rank": 512, "q_lora_rank": None,
        "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "topk_method": "greedy",
        "first_k_dense_replace": 1, "moe_layer_freq": 1, "scoring_func": "softmax",
        "moe": moe(
            num_experts=64, shared_expert_intermediate_size=2816, top_k=6, normalization_mode=0,
            device_limited_n_group=1, device_limited_topk_group=1,
        ),
    }),
)
# fmt: on
