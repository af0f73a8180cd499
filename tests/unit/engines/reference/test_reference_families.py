"""The runtime against transformers for every form of decoder layer, on rank files written by hand.

No family's table takes part: these names and orders were read from TensorRT-LLM's own model definitions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from engines.reference import load_config, open_executor
from engines.reference.batches import Decode, Logits, Prefill
from tests.support.rank_files import Whole, write_engine

HIDDEN, LAYERS, HEADS, KV_HEADS, SIZE, WIDTH, VOCAB = 64, 2, 4, 2, 16, 96, 131
TOKENS = tuple(3 + (5 * i * i + 7 * i) % 120 for i in range(30))
State = dict[str, Tensor]
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "intermediate_size": WIDTH,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}


@dataclass(frozen=True)
class Case:
    """A tiny transformers model, and the same as a checkpoint: tensors of a layer, config.json's keys."""

    name: str
    model_type: str
    settings: dict[str, Any]
    architecture: str
    config: dict[str, Any]
    layer: Callable[[State], Whole]
    prefix: str = "model.layers.{}."
    outer: dict[str, str] = field(
        default_factory=lambda: {
            "transformer.vocab_embedding.weight": "model.embed_tokens.weight",
            "transformer.ln_f": "model.norm",
            "lm_head": "lm_head",
        }
    )
    model: dict[str, Any] = field(default_factory=dict)
    plus_one: bool = False
    experts: bool = False

    def __str__(self) -> str:
        return self.name


def norms(state: State, **names: str) -> Whole:
    """Target = source, with the bias where there is one."""
    found: Whole = {}
    for target, source in names.items():
        for part in ("weight", "bias"):
            if f"{source}.{part}" in state:
                found[f"{target}.{part}"] = state[f"{source}.{part}"]
    return found


def linear(state: State, target: str, *sources: str, transpose: bool = False) -> Whole:
    """One linear module, fused of several."""
    found: Whole = {}
    for part in ("weight", "bias"):
        if f"{sources[0]}.{part}" in state:
            parts = [state[f"{source}.{part}"] for source in sources]
            found[f"{target}.{part}"] = tuple(one.T if transpose and one.ndim == 2 else one for one in parts)
    return found


def split_qkv(whole: Tensor, kv_heads: int, *, size: int = SIZE) -> tuple[Tensor, ...]:
    """[q; k; v] in its three parts."""
    return whole.split([whole.shape[0] - 2 * kv_heads * size, kv_heads * size, kv_heads * size])


def grouped_qkv(whole: Tensor, kv_heads: int) -> tuple[Tensor, ...]:
    """For each KV head its queries, its key, its value: in three parts."""
    groups = whole.unflatten(0, (kv_heads, -1, SIZE))
    return groups[:, :-2].flatten(0, 2), groups[:, -2].flatten(0, 1), groups[:, -1].flatten(0, 1)


def llama_attention(state: State, *, dense: str = "self_attn.o_proj") -> Whole:
    names = [f"self_attn.{name}_proj" for name in ("q", "k", "v")]
    return linear(state, "attention.qkv", *names) | linear(state, "attention.dense", dense)


def gated(state: State) -> Whole:
    return (
        linear(state, "mlp.fc", "mlp.gate_proj")
        | linear(state, "mlp.gate", "mlp.up_proj")
        | linear(state, "mlp.proj", "mlp.down_proj")
    )


def plain(state: State, fc: str, proj: str, *, transpose: bool = False) -> Whole:
    return linear(state, "mlp.fc", fc, transpose=transpose) | linear(
        state, "mlp.proj", proj, transpose=transpose
    )


def gpt2_layer(state: State, *, kv_heads: int = HEADS, transpose: bool = True) -> Whole:
    attention = linear(state, "attention.qkv", "attn.c_attn", transpose=transpose)
    for name, (fused,) in list(attention.items()):
        attention[name] = split_qkv(fused, kv_heads)
    return (
        norms(state, input_layernorm="ln_1", post_layernorm="ln_2")
        | attention
        | linear(state, "attention.dense", "attn.c_proj", transpose=transpose)
        | plain(state, "mlp.c_fc", "mlp.c_proj", transpose=transpose)
    )


def fused_layer(
    state: State, *, attention: str, kv_heads: int, norm_names: dict[str, str], fc: str, proj: str
) -> Whole:
    """GPT-NeoX, BLOOM and Falcon: one grouped query_key_value."""
    qkv = linear(state, "attention.qkv", f"{attention}.query_key_value")
    for name, (fused,) in list(qkv.items()):
        qkv[name] = grouped_qkv(fused, kv_heads)
    dense = linear(state, "attention.dense", f"{attention}.dense")
    return norms(state, **norm_names) | qkv | dense | plain(state, fc, proj)


def opt_layer(state: State) -> Whole:
    return (
        norms(state, input_layernorm="self_attn_layer_norm", post_layernorm="final_layer_norm")
        | llama_attention(state, dense="self_attn.out_proj")
        | plain(state, "fc1", "fc2")
    )


def gptj_layer(state: State) -> Whole:
    names = [f"attn.{name}_proj" for name in ("q", "k", "v")]
    return (
        norms(state, input_layernorm="ln_1")
        | linear(state, "attention.qkv", *names)
        | linear(state, "attention.dense", "attn.out_proj")
        | plain(state, "mlp.fc_in", "mlp.fc_out")
    )


def phi3_layer(state: State) -> Whole:
    gate, up = state["mlp.gate_up_proj.weight"].chunk(2)
    return (
        norms(state, input_layernorm="input_layernorm", post_layernorm="post_attention_layernorm")
        | {"attention.qkv.weight": split_qkv(state["self_attn.qkv_proj.weight"], KV_HEADS)}
        | linear(state, "attention.dense", "self_attn.o_proj")
        | {"mlp.fc.weight": (up, gate)}
        | linear(state, "mlp.proj", "mlp.down_proj")
    )


def glm_layer(state: State) -> Whole:
    gate, up = state["mlp.gate_up_proj.weight"].chunk(2)
    return (
        norms(state, input_layernorm="input_layernorm", post_layernorm="post_attention_layernorm")
        | llama_attention(state)
        | {"mlp.fc.weight": (up, gate)}
        | linear(state, "mlp.proj", "mlp.down_proj")
    )


def phi_layer(state: State) -> Whole:
    return (
        norms(state, input_layernorm="input_layernorm")
        | llama_attention(state, dense="self_attn.dense")
        | plain(state, "mlp.fc1", "mlp.fc2")
    )


def starcoder2_layer(state: State, *, fc: str = "mlp.c_fc", proj: str = "mlp.c_proj") -> Whole:
    return (
        norms(state, input_layernorm="input_layernorm", post_layernorm="post_attention_layernorm")
        | llama_attention(state)
        | plain(state, fc, proj)
    )


def gemma_layer(state: State, *, sandwich: bool) -> Whole:
    names = {"input_layernorm": "input_layernorm", "post_layernorm": "post_attention_layernorm"}
    if sandwich:
        names |= {name: name for name in ("pre_feedforward_layernorm", "post_feedforward_layernorm")}
    heads = {"attention.q_layernorm": "self_attn.q_norm", "attention.k_layernorm": "self_attn.k_norm"}
    return norms(state, **names) | norms(state, **heads) | llama_attention(state) | gated(state)


def cohere_layer(state: State) -> Whole:
    heads = {"attention.q_layernorm": "self_attn.q_norm", "attention.k_layernorm": "self_attn.k_norm"}
    return norms(state, input_layernorm="input_layernorm", **heads) | llama_attention(state) | gated(state)


def stacked_experts(gate_up: Tensor, down: Tensor, router: Tensor) -> Whole:
    gate, up = gate_up.chunk(2, dim=1)
    return {"mlp.fc.weight": (up, gate), "mlp.proj.weight": down, "mlp.router.weight": router}


def phimoe_layer(state: State) -> Whole:
    return (
        norms(state, input_layernorm="input_layernorm", post_layernorm="post_attention_layernorm")
        | llama_attention(state)
        | stacked_experts(
            state["mlp.experts.gate_up_proj"], state["mlp.experts.down_proj"], state["mlp.router.weight"]
        )
    )


def dbrx_layer(state: State) -> Whole:
    w1, v1, w2 = (state[f"ffn.experts.mlp.{name}"].unflatten(0, (4, -1)) for name in ("w1", "v1", "w2"))
    return (
        norms(state, input_layernorm="norm_attn_norm.norm_1", post_layernorm="norm_attn_norm.norm_2")
        | {"attention.qkv.weight": split_qkv(state["norm_attn_norm.attn.Wqkv.weight"], KV_HEADS)}
        | linear(state, "attention.dense", "norm_attn_norm.attn.out_proj")
        | stacked_experts(torch.cat((w1, v1), dim=1), w2.transpose(1, 2), state["ffn.router.layer.weight"])
    )


def mpt_layer(state: State) -> Whole:
    return (
        norms(state, input_layernorm="norm_1", post_layernorm="norm_2")
        | {"attention.qkv.weight": split_qkv(state["attn.Wqkv.weight"], HEADS)}
        | linear(state, "attention.dense", "attn.out_proj")
        | plain(state, "ffn.up_proj", "ffn.down_proj")
    )


def deepseek_layer(state: State) -> Whole:
    """Sizes as in DEEPSEEK: 16 + 8 dims of a query, 12 of a value, a latent of 20."""
    both = state["self_attn.kv_b_proj.weight"].unflatten(0, (HEADS, 16 + 12))
    keys, values = both[:, :16], both[:, 16:]
    sources = [state["self_attn.kv_a_proj_with_mqa.weight"]]
    query = "self_attn.q_proj.weight"
    if "self_attn.q_a_proj.weight" in state:
        sources.insert(0, state["self_attn.q_a_proj.weight"])
        query = "self_attn.q_b_proj.weight"
    whole: Whole = {
        "attention.fused_a.weight": torch.cat(sources),
        "attention.q_b_proj": state[query],
        "attention.kv_b_proj": (keys.flatten(0, 1), values.flatten(0, 1)),
        "attention.k_b_proj_trans": keys.transpose(1, 2).flatten(0, 1),
    }
    latent = {f"attention.{name}": f"self_attn.{name}" for name in ("q_a_layernorm", "kv_a_layernorm")}
    whole |= norms(state, input_layernorm="input_layernorm", post_layernorm="post_attention_layernorm")
    whole |= norms(state, **latent) | linear(state, "attention.dense", "self_attn.o_proj")
    if "mlp.gate.weight" not in state:
        return whole | gated(state)
    shared = "mlp.shared_experts"
    return (
        whole
        | stacked_experts(
            state["mlp.experts.gate_up_proj"], state["mlp.experts.down_proj"], state["mlp.gate.weight"]
        )
        | linear(state, "mlp.shared_expert.fc", f"{shared}.up_proj", f"{shared}.gate_proj")
        | linear(state, "mlp.shared_expert.proj", f"{shared}.down_proj")
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
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
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
CASES = (
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


def tiny_model(case: Case) -> Any:
    """The transformers model, with weights large enough that every part of it shows in the logits."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(case.model_type, **{**SIZES, **case.settings})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                is_weight = name.endswith("weight") and not case.plus_one
                parameter.copy_((1.0 if is_weight else 0.0) + 0.2 * noise)
            else:
                parameter.copy_(noise / math.sqrt(parameter.shape[-1]))
    return model


def whole_checkpoint(case: Case, state: State) -> Whole:
    """The tensors of the whole model under TensorRT-LLM's names."""
    whole: Whole = {}
    for target, source in case.outer.items():
        if target.endswith(".weight"):
            whole[target] = (
                state[source][2:] if case.model_type == "opt" and "position" in target else state[source]
            )
        else:
            whole |= norms(state, **{target: source})
    for layer in range(LAYERS):
        prefix = case.prefix.format(layer)
        held = {name.removeprefix(prefix): one for name, one in state.items() if name.startswith(prefix)}
        whole |= {f"transformer.layers.{layer}.{name}": one for name, one in case.layer(held).items()}
    if case.plus_one:
        for name, value in whole.items():
            if ("norm" in name and name.endswith(".weight")) or name == "transformer.ln_f.weight":
                assert isinstance(value, Tensor)
                whole[name] = value + 1
    return whole


def checkpoint_config(case: Case) -> dict[str, Any]:
    base = {
        "architecture": case.architecture,
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_size": SIZE,
        "intermediate_size": WIDTH,
        "norm_epsilon": 1e-5,
        "position_embedding_type": "rope_gpt_neox",
        "max_position_embeddings": 128,
        "rotary_embedding_dim": SIZE,
    }
    return base | case.config


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_form_of_layer_computes_what_transformers_computes(tmp_path: Path, case: Case) -> None:
    model = tiny_model(case)
    config = checkpoint_config(case)
    epsilon = (
        next(
            getattr(model.config, name)
            for name in ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon")
            if hasattr(model.config, name)
        )
        if case.model_type not in ("opt", "dbrx")
        else 1e-5
    )
    whole = whole_checkpoint(case, model.state_dict())
    with torch.inference_mode():
        truth = model(torch.tensor([TOKENS])).logits[0]
    limit = 1e-4 * float(truth.abs().max())
    for tp_size, ep_size in [(1, 1), (2, 1), *([(4, 2), (2, 2)] if case.experts else [])]:
        folder = tmp_path / f"tp{tp_size}-ep{ep_size}"
        write_engine(
            folder,
            whole,
            config | {"norm_epsilon": epsilon},
            case.model,
            tp_size=tp_size,
            ep_size=ep_size,
        )
        executor = open_executor(
            load_config(folder), kind="lockstep", device="cpu", compute_dtype="float32", num_slots=1
        )
        found = executor.forward(Prefill(0, 0, TOKENS, Logits.ALL))
        assert found is not None
        assert float((found - truth).abs().max()) < limit, folder.name
        executor.forward(Prefill(0, 0, TOKENS[:11], Logits.NONE, prompt_length=28))
        executor.forward(Prefill(0, 11, TOKENS[11:28], Logits.NONE, prompt_length=28))
        for place in (28, 29):
            step = executor.forward(Decode((TOKENS[place],), (place,)))
            assert step is not None
            assert float((step[0] - truth[place]).abs().max()) < limit, f"{folder.name}, position {place}"
