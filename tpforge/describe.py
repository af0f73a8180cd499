"""Says in words what a model is: from its ModelSpec, or where there is none from its config.json alone.

It finds nothing out; the audit of a checkpoint does.
"""

from __future__ import annotations

from typing import Any

from tpforge.model import ModelSpec

Rows = list[tuple[str, str]]

# How the configs of different families spell the same thing; the first that is there counts.
_SPELLINGS = (
    ("layers", ("num_hidden_layers", "n_layer", "num_layers", "n_layers")),
    ("hidden size", ("hidden_size", "n_embd", "d_model")),
    ("attention heads", ("num_attention_heads", "n_head", "n_heads")),
    ("KV heads", ("num_key_value_heads", "num_kv_heads", "multi_query_group_num")),
    ("head size", ("head_dim", "kv_channels")),
    ("MLP size", ("intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim")),
    ("experts", ("num_local_experts", "num_experts", "n_routed_experts")),
    ("rope", ("rope_parameters", "rope_scaling", "rope_theta")),
    ("context", ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len")),
    ("vocabulary", ("vocab_size", "padded_vocab_size")),
    ("tied embeddings", ("tie_word_embeddings",)),
    ("dtype", ("dtype", "torch_dtype")),
)


def describe_config(config: dict[str, Any]) -> Rows:
    """What config.json says of the model, unchecked; multimodal ones keep it under ``text_config``."""
    inner = config.get("text_config")
    values = {**config, **inner} if isinstance(inner, dict) else config
    rows = []
    for what, keys in _SPELLINGS:
        found = next((values[key] for key in keys if values.get(key) is not None), None)
        if found is not None:
            rows.append((what, f"{str(found)[:80]} (as config.json says)"))
    return rows


def describe_model(model: ModelSpec) -> Rows:
    """The model, a fact a row."""
    attention = model.attention
    return [
        ("layers", str(model.num_layers)),
        ("hidden size", str(model.hidden_size)),
        ("attention heads", f"{attention.num_heads}, {attention.num_kv_heads} KV"),
        ("head size", _head_size(model)),
        ("MLP size", str(model.mlp.intermediate_size)),
        ("experts", _experts(model)),
        ("positions", _positions(model)),
        ("context", _context(model)),
        ("vocabulary", str(model.vocab_size)),
        ("tied embeddings", "yes" if model.tie_word_embeddings else "no"),
        ("dtype", model.dtype.value),
    ]


def _head_size(model: ModelSpec) -> str:
    latent = model.attention.latent
    if latent is None:
        return str(model.attention.head_size)
    return f"{model.attention.head_size}, values {latent.v_head_size}, latent {latent.kv_lora_rank}"


def _experts(model: ModelSpec) -> str:
    moe = model.moe
    if moe is None:
        return "none"
    num_layers = sum(model.has_experts(layer) for layer in range(model.num_layers))
    shared = f", shared of size {moe.shared_intermediate_size}" if moe.shared_intermediate_size else ""
    return (
        f"{moe.num_experts}, {moe.top_k} a token, of size {moe.intermediate_size}{shared}, "
        f"in {num_layers} of {model.num_layers} layers"
    )


def _positions(model: ModelSpec) -> str:
    rope = model.rope
    if rope is None:
        return model.position
    words = [f"rope, base {rope.base:g}"]
    if rope.local_base is not None:
        words.append(f"base {rope.local_base:g} in layers with a window")
    if rope.partial_factor != 1:
        words.append(f"on {rope.partial_factor:g} of the head")
    scaling = rope.scaling or {}
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind is not None:
        factor = scaling.get("factor")
        words.append(f"scaling {kind}" + (f" by {factor:g}" if isinstance(factor, int | float) else ""))
    return ", ".join(words)


def _context(model: ModelSpec) -> str:
    windows = [model.window(layer) for layer in range(model.num_layers)]
    sliding = [window for window in windows if window is not None]
    if not sliding:
        return f"{model.max_position_embeddings} positions"
    return (
        f"{model.max_position_embeddings} positions, a window of {sliding[0]} in {len(sliding)} of "
        f"{model.num_layers} layers"
    )
