"""A declared model in the words of ModelSpec, for what asks for sizes only: limits, heads, experts.

Its layers differ in more than a ModelSpec can say: `Declared` has them. No norm, rope or activation is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tpforge.architectures.declared import Declared
from tpforge.dtypes import DType, parse_dtype
from tpforge.errors import InputRefused
from tpforge.model import AttentionSpec, LatentSpec, MlpSpec, ModelSpec, MoeSpec, NormSpec, SpecialTokens


def declared_spec(
    model: Declared, *, where: str, dtype: DType | None = None, generation: Mapping[str, Any] | None = None
) -> ModelSpec:
    """The sizes of `model`; `dtype` is that of its weights where config.json names none.

    `generation` has ids of special tokens that go before those of config.json.

    Raises:
        InputRefused: config.json names a type that is none of floats.
    """
    sizes = model.sizes
    return ModelSpec(
        architecture=model.class_name,
        vocab_size=sizes["vocab"],
        hidden_size=sizes["hidden"],
        num_layers=model.num_layers,
        max_position_embeddings=sizes["positions"],
        dtype=_dtype(model, where=where) or dtype or DType.BFLOAT16,
        tie_word_embeddings=bool(sizes["tied"]),
        attention=_attention(model),
        mlp=MlpSpec(intermediate_size=_dense_width(model), activation="unknown"),
        rope=None,
        norm=NormSpec(epsilon=1e-6),
        moe=_moe(model),
        special_tokens=_special_tokens({**model.config, **(generation or {})}),
    )


def _attention(model: Declared) -> AttentionSpec:
    sizes = model.sizes
    uses = [use for kinds in model.row.attention.kinds.values() for use in kinds]
    latent = None
    if any(use.block == "mla" for use in uses):
        latent = LatentSpec(
            q_lora_rank=sizes["q_lora"] or None,
            kv_lora_rank=sizes["kv_lora"],
            qk_nope_head_size=sizes["nope"],
            qk_rope_head_size=sizes["rope"],
            v_head_size=sizes["value"],
        )
    return AttentionSpec(
        num_heads=sizes["heads"],
        num_kv_heads=sizes["heads"] if latent else sizes["kv_heads"],
        head_size=latent.qk_nope_head_size + latent.qk_rope_head_size if latent else sizes["head"],
        latent=latent,
    )


def _dense_width(model: Declared) -> int:
    """The widest block without experts, or the width of an expert where there is none."""
    widths = [
        one.shape[0]
        for layer in model.layers
        for one in layer.tensors
        if one.cut == "width" and one.name.endswith("up_proj.weight")
    ]
    return max(widths, default=0) or (model.sizes["expert"] if _expert_layers(model) else 1)


def _expert_layers(model: Declared) -> int:
    return sum(layer.has_experts for layer in model.layers)


def _moe(model: Declared) -> MoeSpec | None:
    if not _expert_layers(model):
        return None
    shared = max(
        (
            one.shape[0]
            for layer in model.layers
            if layer.has_experts
            for one in layer.tensors
            if one.cut == "width" and "shared" in one.name and one.name.endswith("up_proj.weight")
        ),
        default=0,
    )
    return MoeSpec(
        num_experts=model.sizes["experts"],
        top_k=model.sizes["top_k"],
        intermediate_size=model.sizes["expert"],
        shared_intermediate_size=shared,
        layers=tuple(layer.has_experts for layer in model.layers),
    )


def _dtype(model: Declared, *, where: str) -> DType | None:
    named = model.config.get("dtype") or model.config.get("torch_dtype")
    if not isinstance(named, str) or named == "auto":
        return None
    try:
        return parse_dtype(named)
    except InputRefused as error:
        raise InputRefused(f"{where}: {error}") from error


def _special_tokens(config: Mapping[str, Any]) -> SpecialTokens:
    def ids(key: str) -> tuple[int, ...]:
        found = config.get(key)
        given = found if isinstance(found, list) else [found]
        return tuple(one for one in given if isinstance(one, int))

    return SpecialTokens(
        begin_id=next(iter(ids("bos_token_id")), None),
        end_ids=ids("eos_token_id"),
        pad_id=next(iter(ids("pad_token_id")), None),
    )
