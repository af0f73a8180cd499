"""The tiny model of every family, one case or more each; families with no transformers class have a twin.

It builds nothing: `families` does.
"""

from __future__ import annotations

from tests.families import FamilyCase
from tests.family_exports import export_internlm2, export_qwen1

MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "decoder_sparse_step": 1}

CASES = (
    FamilyCase("llama", "llama", {}),
    FamilyCase("llama, biased", "llama", {"attention_bias": True}),
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
        {"num_key_value_heads": 4, "rms_norm_eps": 1e-6},
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
)
