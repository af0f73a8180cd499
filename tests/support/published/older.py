"""More published models, most of before 2024, and what upstream writes for them; see published_configs."""

from __future__ import annotations

from typing import Any

from tests.support.published.configs import LLAMA_ALIKE, QWEN_ALIKE, Published, moe

GPT_ALIKE: dict[str, Any] = {
    "bias": True, "q_scaling": 1.0, "embedding_scale": None, "apply_query_key_layer_scaling": False,
    "rotary_pct": 1.0, "rotary_base": 10000.0, "rotary_scaling": None, "moe": moe(normalization_mode=1),
    "inner_layernorm": False, "norm_before_bmm1": False,
}  # fmt: skip
# The published lists have 64 numbers each.
LONG, SHORT = [1.0 + pair for pair in range(64)], [1.0 + pair / 50 for pair in range(64)]

# fmt: off
OLDER = (
    Published("mistralai/Mistral-7B-v0.1", {
        "architectures": ["MistralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
        "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 32768,
        "model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 32,
        "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 4096,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "vocab_size": 32000,
    }, {
        **LLAMA_ALIKE, "architecture": "MistralForCausalLM", "dtype": "bfloat16", "vocab_size": 32000,
        "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "head_size": 128, "hidden_act": "silu", "intermediate_size": 14336, "norm_epsilon": 1e-05,
        "position_embedding_type": "rope_gpt_neox", "max_position_embeddings": 32768,
        "rotary_embedding_dim": 128, "rotary_base": 10000.0, "rotary_scaling": None,
        "tie_word_embeddings": False,
    }),
    Published("internlm/internlm2-7b", {
        "architectures": ["InternLM2ForCausalLM"], "bias": False, "bos_token_id": 1, "eos_token_id": 2,
        "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
        "max_position_embeddings": 32768, "model_type": "internlm2", "num_attention_heads": 32,
        "num_hidden_layers": 32, "num_key_value_heads": 8, "pad_token_id": 2, "rms_norm_eps": 1e-05,
        "rope_scaling": {"factor": 1.0, "type": "dynamic"}, "rope_theta": 1000000,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "vocab_size": 92544,
    }, {
        **LLAMA_ALIKE, "architecture": "InternLM2ForCausalLM", "dtype": "bfloat16", "vocab_size": 92544,
        "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "head_size": 128, "hidden_act": "silu", "intermediate_size": 14336, "norm_epsilon": 1e-05,
        "position_embedding_type": "rope_gpt_neox", "max_position_embeddings": 32768,
        "rotary_embedding_dim": 128, "rotary_base": 1000000,
        "rotary_scaling": {"factor": 1.0, "type": "dynamic"}, "tie_word_embeddings": False,
    }),
    Published("Qwen/Qwen-7B", {
        "architectures": ["QWenLMHeadModel"], "bf16": False, "hidden_size": 4096,
        "intermediate_size": 22016, "kv_channels": 128, "layer_norm_epsilon": 1e-06,
        "max_position_embeddings": 32768, "model_type": "qwen", "no_bias": True, "num_attention_heads": 32,
        "num_hidden_layers": 32, "rotary_emb_base": 10000, "rotary_pct": 1.0, "scale_attn_weights": True,
        "seq_length": 8192, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
        "use_dynamic_ntk": True, "use_logn_attn": True, "vocab_size": 151936,
    }, {
        **QWEN_ALIKE, "architecture": "QWenLMHeadModel", "dtype": "bfloat16", "vocab_size": 151936,
        "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
        "head_size": 128, "hidden_act": "silu", "intermediate_size": 22016, "norm_epsilon": 1e-06,
        "position_embedding_type": "rope_gpt_neox",
        # Upstream writes 32768, and true for use_logn_attn, which changes the scores beyond 8192 tokens.
        "max_position_embeddings": 8192, "use_logn_attn": False,
        "rotary_embedding_dim": 128, "rotary_base": 10000, "rotary_scaling": None,
        "tie_word_embeddings": False, "qwen_type": "qwen",
    }),
    Published("google/gemma-7b", {
        "architectures": ["GemmaForCausalLM"], "attention_bias": False, "bos_token_id": 2,
        "eos_token_id": 1, "head_dim": 256, "hidden_act": "gelu", "hidden_activation": None,
        "hidden_size": 3072, "intermediate_size": 24576, "max_position_embeddings": 8192,
        "model_type": "gemma", "num_attention_heads": 16, "num_hidden_layers": 28,
        "num_key_value_heads": 16, "pad_token_id": 0, "rms_norm_eps": 1e-06, "rope_scaling": None,
        "rope_theta": 10000.0, "torch_dtype": "bfloat16", "vocab_size": 256000,
    }, {
        "architecture": "GemmaForCausalLM", "dtype": "bfloat16", "vocab_size": 256000, "hidden_size": 3072,
        "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 16, "head_size": 256,
        # "gelu", which upstream writes, is the same function in TensorRT-LLM.
        "hidden_act": "gelu_pytorch_tanh", "intermediate_size": 24576, "norm_epsilon": 1e-06,
        "position_embedding_type": "rope_gpt_neox", "max_position_embeddings": 8192,
        "rotary_embedding_dim": 256, "rotary_base": 10000.0, "rotary_scaling": None, "attn_bias": False,
        "mlp_bias": False, "inter_layernorms": False,
        # Not written by upstream, whose Gemma is always tied.
        "tie_word_embeddings": True,
    }),
    Published("openai-community/gpt2", {
        "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "bos_token_id": 50256,
        "eos_token_id": 50256, "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024,
        "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024, "torch_dtype": "float32",
        "vocab_size": 50257,
    }, {
        # Upstream makes float16 of float32.
        **GPT_ALIKE, "architecture": "GPT2LMHeadModel", "dtype": "float32", "vocab_size": 50257,
        "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "num_key_value_heads": 12,
        "head_size": 64, "hidden_act": "gelu_new", "intermediate_size": 3072, "norm_epsilon": 1e-05,
        "position_embedding_type": "learned_absolute", "max_position_embeddings": 1024,
        "rotary_embedding_dim": 64, "gpt_variant": "gpt2", "tie_word_embeddings": True,
    }),
    Published("bigcode/starcoder2-7b", {
        "architectures": ["Starcoder2ForCausalLM"], "attention_dropout": 0.1, "bos_token_id": 0,
        "eos_token_id": 0, "hidden_act": "gelu_pytorch_tanh", "hidden_size": 4608,
        "intermediate_size": 18432, "max_position_embeddings": 16384, "mlp_type": "default",
        "model_type": "starcoder2", "norm_epsilon": 1e-05, "norm_type": "layer_norm",
        "num_attention_heads": 36, "num_hidden_layers": 32, "num_key_value_heads": 4,
        "rope_theta": 1000000, "sliding_window": 4096, "torch_dtype": "bfloat16", "use_bias": True,
        "vocab_size": 49152,
    }, {
        **GPT_ALIKE, "architecture": "Starcoder2ForCausalLM", "dtype": "bfloat16", "vocab_size": 49152,
        "hidden_size": 4608, "num_hidden_layers": 32, "num_attention_heads": 36, "num_key_value_heads": 4,
        "head_size": 128, "hidden_act": "gelu_pytorch_tanh", "intermediate_size": 18432,
        "norm_epsilon": 1e-05, "position_embedding_type": "rope_gpt_neox", "max_position_embeddings": 16384,
        "rotary_embedding_dim": 128, "rotary_base": 1000000, "gpt_variant": "starcoder2",
        "tie_word_embeddings": True,
    }),
    Published("EleutherAI/gpt-neox-20b", {
        "architectures": ["GPTNeoXForCausalLM"], "bos_token_id": 0, "eos_token_id": 0,
        "hidden_act": "gelu_fast", "hidden_size": 6144, "intermediate_size": 24576, "layer_norm_eps": 1e-05,
        "max_position_embeddings": 2048, "model_type": "gpt_neox", "num_attention_heads": 64,
        "num_hidden_layers": 44, "rotary_emb_base": 10000, "rotary_pct": 0.25,
        "tie_word_embeddings": False, "torch_dtype": "float16", "vocab_size": 50432,
    }, {
        "architecture": "GPTNeoXForCausalLM", "dtype": "float16", "vocab_size": 50432, "hidden_size": 6144,
        "num_hidden_layers": 44, "num_attention_heads": 64, "num_key_value_heads": 64, "head_size": 96,
        "hidden_act": "gelu_fast", "intermediate_size": 24576, "norm_epsilon": 1e-05,
        "position_embedding_type": "rope_gpt_neox", "max_position_embeddings": 2048,
        "rotary_embedding_dim": 24, "rotary_emb_base": 10000, "rotary_pct": 0.25,
        # Beside rotary_emb_base, for the part of upstream that asks for it under this name.
        "rotary_base": 10000, "rotary_scaling": None, "tie_word_embeddings": False,
    }),
    Published("facebook/opt-6.7b", {
        "activation_function": "relu", "architectures": ["OPTForCausalLM"], "bos_token_id": 2,
        "do_layer_norm_before": True, "eos_token_id": 2, "ffn_dim": 16384, "hidden_size": 4096,
        "max_position_embeddings": 2048, "model_type": "opt", "num_attention_heads": 32,
        "num_hidden_layers": 32, "pad_token_id": 1, "torch_dtype": "float16", "vocab_size": 50272,
        "word_embed_proj_dim": 4096,
    }, {
        "architecture": "OPTForCausalLM", "dtype": "float16", "vocab_size": 50272, "hidden_size": 4096,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "head_size": 128,
        "hidden_act": "relu", "intermediate_size": 16384, "norm_epsilon": 1e-05,
        "position_embedding_type": "learned_absolute", "max_position_embeddings": 2048,
        "rotary_embedding_dim": 128, "do_layer_norm_before": True, "tie_word_embeddings": True,
    }),
    Published("bigscience/bloom-7b1", {
        "apply_residual_connection_post_layernorm": False, "architectures": ["BloomForCausalLM"],
        "bos_token_id": 1, "eos_token_id": 2, "layer_norm_epsilon": 1e-05, "masked_softmax_fusion": True,
        "model_type": "bloom", "n_embed": 4096, "n_layer": 30, "num_attention_heads": 32,
        "offset_alibi": 100, "pad_token_id": 3, "pretraining_tp": 2, "seq_length": 2048,
        "skip_bias_add": True, "torch_dtype": "float16", "vocab_size": 250880,
    }, {
        "architecture": "BloomForCausalLM", "dtype": "float16", "vocab_size": 250880, "hidden_size": 4096,
        "num_hidden_layers": 30, "num_attention_heads": 32, "num_key_value_heads": 32, "head_size": 128,
        "hidden_act": "gelu", "intermediate_size": 16384, "norm_epsilon": 1e-05,
        "position_embedding_type": "alibi", "max_position_embeddings": 2048, "rotary_embedding_dim": 128,
        "tie_word_embeddings": True,
    }),
    Published("baichuan-inc/Baichuan2-7B-Chat", {
        "architectures": ["BaichuanForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,
        "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 11008,
        "max_position_embeddings": 4096, "model_max_length": 4096, "model_type": "baichuan",
        "num_attention_heads": 32, "num_hidden_layers": 32, "pad_token_id": 0, "rms_norm_eps": 1e-06,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "vocab_size": 125696, "z_loss_weight": 0,
    }, {
        "architecture": "BaichuanForCausalLM", "dtype": "bfloat16", "vocab_size": 125696,
        "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
        "head_size": 128, "hidden_act": "silu", "intermediate_size": 11008, "norm_epsilon": 1e-06,
        "position_embedding_type": "rope_gpt_neox", "max_position_embeddings": 4096,
        "rotary_embedding_dim": 128, "model_version": "v2_7b", "tie_word_embeddings": False,
    }),
    Published("THUDM/chatglm3-6b", {
        "_name_or_path": "THUDM/chatglm3-6b", "add_bias_linear": False, "add_qkv_bias": True,
        "apply_query_key_layer_scaling": True, "apply_residual_connection_post_layernorm": False,
        "architectures": ["ChatGLMModel"], "attention_softmax_in_fp32": True, "eos_token_id": 2,
        "ffn_hidden_size": 13696, "fp32_residual_connection": False, "hidden_size": 4096,
        "kv_channels": 128, "layernorm_epsilon": 1e-05, "model_type": "chatglm",
        "multi_query_attention": True, "multi_query_group_num": 2, "num_attention_heads": 32,
        "num_layers": 28, "original_rope": True, "pad_token_id": 0, "padded_vocab_size": 65024,
        "post_layer_norm": True, "rmsnorm": True, "seq_length": 8192, "tie_word_embeddings": False,
        "torch_dtype": "float16",
    }, {
        "architecture": "ChatGLMModel", "dtype": "float16", "vocab_size": 65024, "hidden_size": 4096,
        "num_hidden_layers": 28, "num_attention_heads": 32, "num_key_value_heads": 2, "head_size": 128,
        "hidden_act": "swiglu", "intermediate_size": 13696, "norm_epsilon": 1e-05,
        "position_embedding_type": "rope_gptj", "max_position_embeddings": 8192,
        # Upstream writes the head size, and rotates by rotary_pct.
        "rotary_embedding_dim": 64, "chatglm_version": "chatglm3", "add_bias_linear": False,
        "add_qkv_bias": True, "apply_query_key_layer_scaling": False,
        "apply_residual_connection_post_layernorm": False, "rmsnorm": True, "rotary_pct": 0.5,
        "rotary_base": 10000.0, "rotary_scaling": None, "tie_word_embeddings": False,
    }),
    Published("microsoft/Phi-3.5-MoE-instruct", {
        "architectures": ["PhiMoEForCausalLM"], "attention_bias": True, "bos_token_id": 1,
        "eos_token_id": 32000, "hidden_act": "silu", "hidden_size": 4096, "input_jitter_noise": 0.01,
        "intermediate_size": 6400, "lm_head_bias": True, "max_position_embeddings": 131072,
        "model_type": "phimoe", "num_attention_heads": 32, "num_experts_per_tok": 2,
        "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 16,
        "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "long_factor": LONG, "long_mscale": 1.243163121016122, "original_max_position_embeddings": 4096,
            "short_factor": SHORT, "short_mscale": 1.243163121016122, "type": "longrope",
        },
        "rope_theta": 10000.0, "router_jitter_noise": 0.01, "sliding_window": 131072,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "vocab_size": 32064,
    }, {
        "architecture": "PhiMoEForCausalLM", "dtype": "bfloat16", "vocab_size": 32064, "hidden_size": 4096,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "head_size": 128,
        "hidden_act": "swiglu", "intermediate_size": 6400, "norm_epsilon": 1e-05,
        "position_embedding_type": "long_rope", "max_position_embeddings": 131072,
        "rotary_embedding_dim": 128, "rotary_base": 10000.0, "rotary_scaling": None, "rotary_pct": 1.0,
        "tie_word_embeddings": False, "original_max_position_embeddings": 4096,
        "longrope_scaling_short_factors": SHORT, "longrope_scaling_long_factors": LONG,
        "longrope_short_mscale": 1.243163121016122, "longrope_long_mscale": 1.243163121016122,
        # Upstream writes four of its keys, and takes these for the others.
        "moe": moe(num_experts=16, top_k=2, normalization_mode=2), "attention_bias": True,
    }),
)
# fmt: on
