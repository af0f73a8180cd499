"""The forms of layers without experts.

What a case must compute is not here: transformers says so.
"""

from __future__ import annotations

from typing import Any

from tests.support.layer_forms.case import HEADS, HIDDEN, KV_HEADS, LAYERS, PLAIN_ROPE, SIZE, WIDTH, Case
from tests.support.layer_forms.layers import (
    cohere_layer,
    fused_layer,
    gemma_layer,
    glm_layer,
    gpt2_layer,
    gptj_layer,
    mpt_layer,
    opt_layer,
    phi3_layer,
    phi_layer,
    starcoder2_layer,
)

GPT_OUTER = {
    "transformer.vocab_embedding.weight": "transformer.wte.weight",
    "transformer.position_embedding.weight": "transformer.wpe.weight",
    "transformer.ln_f": "transformer.ln_f",
    "lm_head": "lm_head",
}
FALCON_OUTER = {
    "transformer.vocab_embedding.weight": "transformer.word_embeddings.weight",
    "transformer.ln_f": "transformer.ln_f",
    "lm_head": "lm_head",
}
ALL_HEADS = {"num_key_value_heads": HEADS}
LONG_ROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0 + 0.1 * i for i in range(8)],
    "long_factor": [2.0 + 0.5 * i for i in range(8)],
    "rope_theta": 10000.0,
    "original_max_position_embeddings": 20,
}
LONG_ROPE_CONFIG = {
    "position_embedding_type": "long_rope",
    "longrope_scaling_short_factors": LONG_ROPE["short_factor"],
    "longrope_scaling_long_factors": LONG_ROPE["long_factor"],
    "original_max_position_embeddings": 20,
}


def falcon(name: str, settings: dict[str, Any], config: dict[str, Any], kv_heads: int, **names: str) -> Case:
    return Case(
        f"falcon {name}",
        "falcon",
        {"ffn_hidden_size": WIDTH, "num_kv_heads": kv_heads, **settings},
        "FalconForCausalLM",
        {"hidden_act": "gelu", "num_key_value_heads": kv_heads, **config},
        lambda state: fused_layer(
            state,
            attention="self_attention",
            kv_heads=kv_heads,
            norm_names=names,
            fc="mlp.dense_h_to_4h",
            proj="mlp.dense_4h_to_h",
        ),
        "transformer.h.{}.",
        FALCON_OUTER,
        model={"parallel_residual": not settings.get("alibi", False)},
    )


DENSE = (
    Case(
        "gpt2",
        "gpt2",
        {"n_inner": WIDTH},
        "GPT2LMHeadModel",
        {"hidden_act": "gelu_new", "position_embedding_type": "learned_absolute", **ALL_HEADS},
        gpt2_layer,
        "transformer.h.{}.",
        GPT_OUTER,
    ),
    Case(
        "gpt_bigcode",
        "gpt_bigcode",
        {"n_inner": WIDTH, "n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_positions": 128},
        "GPTBigCodeForCausalLM",
        {
            "hidden_act": "gelu_pytorch_tanh",
            "position_embedding_type": "learned_absolute",
            "num_key_value_heads": 1,
        },
        lambda state: gpt2_layer(state, kv_heads=1, transpose=False),
        "transformer.h.{}.",
        GPT_OUTER,
    ),
    Case(
        "gpt_neox",
        "gpt_neox",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25}},
        "GPTNeoXForCausalLM",
        {"hidden_act": "gelu", "rotary_embedding_dim": 4, **ALL_HEADS},
        lambda state: fused_layer(
            state,
            attention="attention",
            kv_heads=HEADS,
            norm_names={name: name for name in ("input_layernorm", "post_attention_layernorm")},
            fc="mlp.dense_h_to_4h",
            proj="mlp.dense_4h_to_h",
        ),
        "gpt_neox.layers.{}.",
        {
            "transformer.vocab_embedding.weight": "gpt_neox.embed_in.weight",
            "transformer.ln_f": "gpt_neox.final_layer_norm",
            "lm_head": "lm_head",
        },
        model={"parallel_residual": True},
    ),
    Case(
        "gptj",
        "gptj",
        {"n_inner": WIDTH, "n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "rotary_dim": 8},
        "GPTJForCausalLM",
        {
            "hidden_act": "gelu_new",
            "rotary_embedding_dim": 8,
            "position_embedding_type": "rope_gptj",
            **ALL_HEADS,
        },
        gptj_layer,
        "transformer.h.{}.",
        {name: source for name, source in GPT_OUTER.items() if "wpe" not in source},
    ),
    Case(
        "opt",
        "opt",
        {"ffn_dim": WIDTH, "word_embed_proj_dim": HIDDEN},
        "OPTForCausalLM",
        {
            "hidden_act": "relu",
            "position_embedding_type": "learned_absolute",
            "do_layer_norm_before": True,
            **ALL_HEADS,
        },
        opt_layer,
        "model.decoder.layers.{}.",
        {
            "transformer.vocab_embedding.weight": "model.decoder.embed_tokens.weight",
            "transformer.position_embedding.weight": "model.decoder.embed_positions.weight",
            "transformer.ln_f": "model.decoder.final_layer_norm",
            "lm_head": "lm_head",
        },
    ),
    Case(
        "bloom",
        "bloom",
        {"n_head": HEADS, "n_layer": LAYERS},
        "BloomForCausalLM",
        {
            "hidden_act": "gelu",
            "position_embedding_type": "alibi",
            "intermediate_size": 4 * HIDDEN,
            **ALL_HEADS,
        },
        lambda state: fused_layer(
            state,
            attention="self_attention",
            kv_heads=HEADS,
            norm_names={
                "input_layernorm": "input_layernorm",
                "post_layernorm": "post_attention_layernorm",
            },
            fc="mlp.dense_h_to_4h",
            proj="mlp.dense_4h_to_h",
        ),
        "transformer.h.{}.",
        {**FALCON_OUTER, "transformer.ln_embed": "transformer.word_embeddings_layernorm"},
    ),
    falcon(
        "40B",
        {"new_decoder_architecture": True, "bias": False},
        {"new_decoder_architecture": True},
        KV_HEADS,
        input_layernorm="ln_attn",
        mlp_layernorm="ln_mlp",
    ),
    falcon(
        "7B",
        {"multi_query": True, "parallel_attn": True, "bias": False},
        {"parallel_attention": True},
        1,
        input_layernorm="input_layernorm",
    ),
    falcon(
        "rw",
        {"multi_query": False, "parallel_attn": False, "alibi": True, "bias": True},
        {"position_embedding_type": "alibi_with_scale"},
        HEADS,
        input_layernorm="input_layernorm",
        post_layernorm="post_attention_layernorm",
    ),
    Case(
        "mpt",
        "mpt",
        {"d_model": HIDDEN, "n_heads": HEADS, "n_layers": LAYERS, "attn_config": {"clip_qkv": 0.7}},
        "MPTForCausalLM",
        {
            "hidden_act": "gelu",
            "position_embedding_type": "alibi",
            "clip_qkv": 0.7,
            "intermediate_size": 4 * HIDDEN,
            **ALL_HEADS,
        },
        mpt_layer,
        "transformer.blocks.{}.",
        {
            "transformer.vocab_embedding.weight": "transformer.wte.weight",
            "transformer.ln_f": "transformer.norm_f",
            "lm_head": "lm_head",
        },
    ),
    Case(
        "phi",
        "phi",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
        "PhiForCausalLM",
        {"hidden_act": "gelu_new", "rotary_embedding_dim": 8},
        phi_layer,
        outer={
            "transformer.vocab_embedding.weight": "model.embed_tokens.weight",
            "transformer.ln_f": "model.final_layernorm",
            "lm_head": "lm_head",
        },
    ),
    Case("phi3", "phi3", {}, "Phi3ForCausalLM", {"hidden_act": "swiglu"}, phi3_layer),
    Case(
        "phi3 with a long rope",
        "phi3",
        {"rope_parameters": LONG_ROPE, "original_max_position_embeddings": 20},
        "Phi3ForCausalLM",
        {"hidden_act": "swiglu", **LONG_ROPE_CONFIG},
        phi3_layer,
    ),
    Case(
        "starcoder2",
        "starcoder2",
        {"sliding_window": 8, "use_bias": True},
        "Starcoder2ForCausalLM",
        {"hidden_act": "gelu_pytorch_tanh"},
        starcoder2_layer,
        model={"attention": {"sliding_window": 8}},
    ),
    Case(
        "nemotron",
        "nemotron",
        {
            "head_dim": SIZE,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
        },
        "NemotronForCausalLM",
        {"hidden_act": "squared-relu", "rotary_embedding_dim": 8},
        lambda state: starcoder2_layer(state, fc="mlp.up_proj", proj="mlp.down_proj"),
        plus_one=True,
    ),
    Case(
        "gemma",
        "gemma",
        {"head_dim": 24},
        "GemmaForCausalLM",
        {"hidden_act": "gelu_pytorch_tanh", "head_size": 24, "rotary_embedding_dim": 24},
        lambda state: gemma_layer(state, sandwich=False),
        plus_one=True,
    ),
    Case(
        "gemma2",
        "gemma2",
        {
            "head_dim": 24,
            "query_pre_attn_scalar": 10,
            "sliding_window": 8,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
        "Gemma2ForCausalLM",
        {
            "hidden_act": "gelu_pytorch_tanh",
            "head_size": 24,
            "rotary_embedding_dim": 24,
            "inter_layernorms": True,
            "query_pre_attn_scalar": 10,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
        lambda state: gemma_layer(state, sandwich=True),
        model={"attention": {"sliding_window": 8, "sliding_layers": [True, False]}},
        plus_one=True,
    ),
    Case(
        "gemma3",
        "gemma3_text",
        {
            "head_dim": 24,
            "query_pre_attn_scalar": 10,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention"],
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
            },
        },
        "Gemma3ForCausalLM",
        {
            "hidden_act": "gelu_pytorch_tanh",
            "head_size": 24,
            "rotary_embedding_dim": 24,
            "inter_layernorms": True,
            "query_pre_attn_scalar": 10,
            "rotary_base": 1e6,
            "rotary_scaling": {"rope_type": "linear", "factor": 8.0},
            "rope_local_base_freq": 1e4,
        },
        lambda state: gemma_layer(state, sandwich=True),
        model={"attention": {"sliding_window": 8, "sliding_layers": [True, False]}},
        plus_one=True,
    ),
    Case(
        "chatglm",
        "glm",
        {
            "head_dim": SIZE,
            "attention_bias": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
        },
        "ChatGLMForCausalLM",
        {"hidden_act": "swiglu", "rotary_embedding_dim": 8, "position_embedding_type": "rope_gptj"},
        glm_layer,
    ),
    Case(
        "cohere",
        "cohere",
        {"use_qk_norm": True, "logit_scale": 0.25, "rope_parameters": PLAIN_ROPE},
        "CohereForCausalLM",
        {
            "hidden_act": "silu",
            "position_embedding_type": "rope_gptj",
            "qk_layernorm": True,
            "output_multiplier_scale": 0.25,
        },
        cohere_layer,
        model={"multipliers": {"logits": 0.25}},
    ),
)
