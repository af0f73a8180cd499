"""Turns the tensors and config of a transformers model into those of a family that computes the same.

Only names, order and fusing change, by plain torch; the functions share nothing with the tables they test.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from tests.support.families.configs import Tensors


def renamed(tensors: Tensors, names: tuple[tuple[str, str], ...]) -> Tensors:
    """Every name after the replacements, in their order."""
    result = {}
    for name, tensor in tensors.items():
        for old, new in names:
            name = name.replace(old, new)
        result[name] = tensor
    return result


def fuse(tensors: Tensors, prefix: str, names: tuple[str, ...], to: str, suffix: str) -> None:
    """Put the joined rows of `names` in their place."""
    parts = [tensors.pop(f"{prefix}{name}.{suffix}") for name in names]
    tensors[f"{prefix}{to}.{suffix}"] = torch.cat(parts)


def prefixes(tensors: Tensors, end: str) -> list[str]:
    """What stands before `end` in the names that end so."""
    return [name.removesuffix(end) for name in tensors if name.endswith(end)]


def grouped(tensors: Tensors, prefix: str, to: str, suffix: str, *, num_kv_heads: int) -> None:
    """q, k, v joined for each KV head: its queries, its key, its value."""
    q, k, v = (tensors.pop(f"{prefix}{name}_proj.{suffix}") for name in "qkv")
    groups = zip(q.chunk(num_kv_heads), k.chunk(num_kv_heads), v.chunk(num_kv_heads), strict=True)
    tensors[f"{prefix}{to}.{suffix}"] = torch.cat([piece for group in groups for piece in group])


def export_internlm2(tensors: Tensors, config: dict[str, Any]) -> tuple[Tensors, dict[str, Any]]:
    """Llama as InternLM 2."""
    for prefix in prefixes(tensors, "q_proj.weight"):
        grouped(tensors, prefix, "wqkv", "weight", num_kv_heads=config["num_key_value_heads"])
    names = (
        ("embed_tokens", "tok_embeddings"),
        ("self_attn.o_proj", "attention.wo"),
        ("self_attn", "attention"),
        ("input_layernorm", "attention_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("mlp.gate_proj", "feed_forward.w1"),
        ("mlp.up_proj", "feed_forward.w3"),
        ("mlp.down_proj", "feed_forward.w2"),
        ("lm_head", "output"),
    )
    changes = {"architectures": ["InternLM2ForCausalLM"], "model_type": "internlm2", "bias": False}
    return renamed(tensors, names), config | changes


def export_qwen1(tensors: Tensors, config: dict[str, Any]) -> tuple[Tensors, dict[str, Any]]:
    """Qwen 2 as Qwen 1, whose config counts both halves of the MLP."""
    for prefix in prefixes(tensors, "q_proj.weight"):
        for suffix in ("weight", "bias"):
            fuse(tensors, prefix, ("q_proj", "k_proj", "v_proj"), "c_attn", suffix)
    names = (
        ("model.embed_tokens", "transformer.wte"),
        ("model.layers", "transformer.h"),
        ("model.norm", "transformer.ln_f"),
        ("self_attn.o_proj", "attn.c_proj"),
        ("self_attn", "attn"),
        ("input_layernorm", "ln_1"),
        ("post_attention_layernorm", "ln_2"),
        ("mlp.gate_proj", "mlp.w2"),
        ("mlp.up_proj", "mlp.w1"),
        ("mlp.down_proj", "mlp.c_proj"),
    )
    kept = ("hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size", "eos_token_id", "dtype")
    changes = {
        "architectures": ["QWenLMHeadModel"],
        "model_type": "qwen",
        "intermediate_size": 2 * config["intermediate_size"],
        "kv_channels": config["hidden_size"] // config["num_attention_heads"],
        "layer_norm_epsilon": config["rms_norm_eps"],
        "no_bias": True,
        "rotary_emb_base": 10000,
        "rotary_pct": 1.0,
        "seq_length": config["max_position_embeddings"],
        "tie_word_embeddings": False,
        "use_dynamic_ntk": True,
        "use_logn_attn": True,
    }
    return renamed(tensors, names), {key: config[key] for key in kept} | changes


def unit_head(model: PreTrainedModel) -> None:
    """Give the LM head rows of length one, as Baichuan 2 has when it applies its own."""
    with torch.no_grad():
        head = model.lm_head.weight
        head /= head.norm(dim=1, keepdim=True)


def alibi_instead_of_rope(model: PreTrainedModel) -> None:
    """Make a Llama of eight heads rotate nothing and lower its scores by distance, with a `unit_head`."""
    unit_head(model)
    slopes = torch.tensor([2.0 ** -(head + 1) for head in range(8)])
    rotary, forward = model.model.rotary_emb, model.forward

    def no_rotation(states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        cosines, sines = type(rotary).forward(rotary, states, *args, **kwargs)
        return torch.ones_like(cosines), torch.zeros_like(sines)

    def with_distances(tokens: torch.Tensor) -> Any:
        place = torch.arange(tokens.shape[1])
        distance = place[:, None] - place[None, :]
        bias = torch.where(distance < 0, -torch.inf, -slopes[:, None, None] * distance)
        return forward(tokens, attention_mask=bias[None])

    rotary.forward = no_rotation
    model.forward = with_distances


def export_baichuan(tensors: Tensors, config: dict[str, Any]) -> tuple[Tensors, dict[str, Any]]:
    """Llama as Baichuan 2 7B, whose LM head has rows of any length."""
    for prefix in prefixes(tensors, "q_proj.weight"):
        fuse(tensors, prefix, ("q_proj", "k_proj", "v_proj"), "W_pack", "weight")
    lengths = 0.5 + torch.rand(config["vocab_size"], 1, generator=torch.Generator().manual_seed(0))
    tensors["lm_head.weight"] *= lengths
    kept = (
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_hidden_layers",
        "vocab_size",
        "max_position_embeddings",
        "rms_norm_eps",
        "hidden_act",
        "eos_token_id",
        "dtype",
    )
    changes = {"architectures": ["BaichuanForCausalLM"], "model_type": "baichuan", "z_loss_weight": 0}
    return tensors, {key: config[key] for key in kept} | changes


def export_baichuan_13b(tensors: Tensors, config: dict[str, Any]) -> tuple[Tensors, dict[str, Any]]:
    """Llama with ALiBi as Baichuan 2 13B."""
    tensors, config = export_baichuan(tensors, config)
    return tensors, config | {"model_max_length": config.pop("max_position_embeddings")}


def export_chatglm(tensors: Tensors, config: dict[str, Any]) -> tuple[Tensors, dict[str, Any]]:
    """Glm as saved with the remote code of GLM-4."""
    for prefix in prefixes(tensors, "q_proj.weight"):
        for suffix in ("weight", "bias"):
            fuse(tensors, prefix, ("q_proj", "k_proj", "v_proj"), "query_key_value", suffix)
    names = (
        ("model.embed_tokens", "transformer.embedding.word_embeddings"),
        ("model.layers", "transformer.encoder.layers"),
        ("model.norm", "transformer.encoder.final_layernorm"),
        ("self_attn.o_proj", "self_attention.dense"),
        ("self_attn", "self_attention"),
        ("mlp.gate_up_proj", "mlp.dense_h_to_4h"),
        ("mlp.down_proj", "mlp.dense_4h_to_h"),
        ("lm_head", "transformer.output_layer"),
    )
    changes = {
        "architectures": ["ChatGLMModel"],
        "model_type": "chatglm",
        "add_bias_linear": False,
        "add_qkv_bias": True,
        "apply_query_key_layer_scaling": True,
        "ffn_hidden_size": config["intermediate_size"],
        "kv_channels": config["head_dim"],
        "layernorm_epsilon": config["rms_norm_eps"],
        "multi_query_attention": True,
        "multi_query_group_num": config["num_key_value_heads"],
        "num_layers": config["num_hidden_layers"],
        "original_rope": True,
        "padded_vocab_size": config["vocab_size"],
        "rope_ratio": config["rope_parameters"]["rope_theta"] / 10000,
        "seq_length": config["max_position_embeddings"],
    }
    kept = ("hidden_size", "num_attention_heads", "vocab_size", "eos_token_id", "dtype")
    return renamed(tensors, names), {key: config[key] for key in kept} | changes
