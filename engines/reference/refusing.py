"""What the runtime does not execute, said from config.json and engine.json's model alone.

It reads no file, so that a build can ask before anything is written.
"""

from __future__ import annotations

import math
from typing import Any

from .architectures import ARCHITECTURES, Architecture, Residual, resolve
from .dequantize import quantization_problems
from .fields import ROPE_TYPES, LatentConfig, Routing, read_experts, read_latent, read_multipliers, rope_type

ACTIVATION_NAMES = (
    "gelu",
    "gelu_fast",
    "gelu_new",
    "gelu_pytorch_tanh",
    "geglu",
    "quick_gelu",
    "relu",
    "silu",
    "squared-relu",
    "swiglu",
)
POSITIONS = ("alibi", "alibi_with_scale", "learned_absolute", "long_rope", "rope_gpt_neox", "rope_gptj")
_ROPE_POSITIONS = ("long_rope", "rope_gpt_neox", "rope_gptj")


def refusals(
    checkpoint: dict[str, Any], model: dict[str, Any], *, max_seq_len: int | None = None
) -> list[str]:
    """Why the runtime cannot execute a checkpoint with this config.json; empty when it can.

    `model` is engine.json's, the ModelSpec as JSON. Where both state a thing, they must agree.

    Raises:
        KeyError: a key that every checkpoint has is missing.
    """
    name = checkpoint["architecture"]
    form = resolve(name, checkpoint)
    if form is None:
        return [f"architecture {name}, known are {', '.join(sorted(ARCHITECTURES))}"]
    latent = read_latent(checkpoint) if form.latent else None
    return [
        *_form_problems(checkpoint, form),
        *_position_problems(checkpoint, model, form, max_seq_len),
        *_expert_problems(checkpoint),
        *quantization_problems(checkpoint),
        *_disagreements(checkpoint, model, form, latent),
    ]


def _form_problems(checkpoint: dict[str, Any], form: Architecture) -> list[str]:
    problems = []
    activation = checkpoint["hidden_act"]
    if activation not in ACTIVATION_NAMES:
        problems.append(f"hidden_act {activation}, known are {', '.join(ACTIVATION_NAMES)}")
    elif form.mlp == "plain" and activation in ("swiglu", "geglu"):
        problems.append(f"hidden_act {activation} in an architecture whose MLP is not gated")
    if checkpoint.get("apply_query_key_layer_scaling"):
        problems.append("apply_query_key_layer_scaling is not executed")
    if checkpoint.get("apply_residual_connection_post_layernorm"):
        problems.append("apply_residual_connection_post_layernorm is not executed")
    if not checkpoint.get("do_layer_norm_before", True):
        problems.append("do_layer_norm_before false (norms after each block) is not executed")
    if checkpoint.get("inner_layernorm"):
        problems.append("inner_layernorm is not executed")
    if checkpoint.get("chatglm_version") in ("glm", "chatglm"):
        problems.append(f"chatglm_version {checkpoint['chatglm_version']} (not causal) is not executed")
    if checkpoint.get("qk_layernorm") and form.norm == "layernorm" and not form.head_norms:
        problems.append(f"qk_layernorm of {checkpoint['architecture']} is not executed")
    return problems


def _position_problems(
    checkpoint: dict[str, Any], model: dict[str, Any], form: Architecture, max_seq_len: int | None
) -> list[str]:
    problems = []
    position = checkpoint.get("position_embedding_type", "rope_gpt_neox")
    if position not in POSITIONS:
        problems.append(f"position_embedding_type {position}, known are {', '.join(POSITIONS)}")
    elif form.position not in (None, position):
        problems.append(f"position_embedding_type {position}, expected {form.position}")
    found = rope_type(checkpoint.get("rotary_scaling"))
    if position in _ROPE_POSITIONS and position != "long_rope" and found not in ROPE_TYPES:
        problems.append(f"rope scaling {found!r}, known are {', '.join(ROPE_TYPES)}")
    heads, whole = checkpoint["num_attention_heads"], model["attention"]["num_heads"]
    if position.startswith("alibi") and heads != whole:
        problems.append(f"alibi with {heads} heads, padded from {whole}: slopes depend on their number")
    length = checkpoint["max_position_embeddings"]
    if max_seq_len is not None and position == "learned_absolute" and max_seq_len > length:
        problems.append(f"max_seq_len {max_seq_len} is more than the {length} positions that were learned")
    trained = checkpoint.get("seq_length", length)
    if checkpoint.get("use_logn_attn") and max_seq_len is not None and max_seq_len > trained:
        problems.append(f"use_logn_attn changes sequences above {trained}; max_seq_len is {max_seq_len}")
    return problems


def _expert_problems(checkpoint: dict[str, Any]) -> list[str]:
    moe = checkpoint.get("moe")
    if not moe or not moe["num_experts"]:
        return []
    if moe["normalization_mode"] not in set(Routing):
        return [f"moe.normalization_mode {moe['normalization_mode']}, known are 0 to {max(Routing)}"]
    problems = []
    experts = read_experts(checkpoint)
    assert experts is not None, "a model with experts"
    if checkpoint["mapping"]["tp_size"] % experts.ep_size or experts.num_experts % experts.ep_size:
        problems.append(f"moe_ep_size {experts.ep_size} does not divide tp_size and the experts")
    if experts.routing is Routing.SPARSE_MIXER and experts.top_k != 2:
        problems.append(f"the sparse mixer with top_k {experts.top_k}, expected 2")
    if checkpoint["hidden_act"] not in ("swiglu", "geglu", "silu"):
        problems.append(f"experts with hidden_act {checkpoint['hidden_act']}, expected a gated one")
    return problems


def _disagreements(
    checkpoint: dict[str, Any], model: dict[str, Any], form: Architecture, latent: LatentConfig | None
) -> list[str]:
    """What engine.json's model states otherwise than config.json; a default there states nothing."""
    here = read_multipliers(checkpoint, latent=latent, sqrt_embedding=form.sqrt_embedding)
    attention, there = model["attention"], model.get("multipliers") or {}
    rope = model.get("rope") or {}
    pairs = [
        ("score softcap", here.score_softcap, attention.get("logit_softcap")),
        ("logit softcap", here.logit_softcap, model.get("logit_softcap")),
        ("score scale", here.score_scale, None if latent else attention.get("scale")),
        ("local rope base", checkpoint.get("rope_local_base_freq"), rope.get("local_base")),
    ]
    pairs += [
        (f"{name} multiplier", getattr(here, name), there[name])
        for name in ("embedding", "residual", "logits")
        if there.get(name, 1.0) != 1.0
    ]
    problems = [
        f"{what}: config.json says {ours}, engine.json {theirs}"
        for what, ours, theirs in pairs
        if theirs is not None and not (ours is not None and math.isclose(ours, theirs, rel_tol=1e-6))
    ]
    if "parallel_residual" in model and model["parallel_residual"] != (form.residual is Residual.PARALLEL):
        problems.append(
            f"engine.json says parallel_residual {model['parallel_residual']}, which TensorRT-LLM's "
            f"definition of {checkpoint['architecture']} is not"
        )
    return problems
