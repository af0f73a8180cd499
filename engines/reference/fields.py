"""Groups of config.json keys that belong together: experts, latent attention, long rope, constant factors.

It decides nothing: `config` puts them together and says what is not executed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

ROPE_TYPES = ("default", "linear", "dynamic", "llama3", "yarn")
"""Kinds of `rotary_scaling` that are executed; longrope has keys of its own in this format."""


def rope_type(scaling: dict[str, Any] | None) -> str:
    """The kind of a Hugging Face rope scaling dictionary, under its new or its old key."""
    return "default" if scaling is None else str(scaling.get("rope_type", scaling.get("type", "default")))


class Routing(IntEnum):
    """How the weights of the chosen experts are made; TensorRT-LLM's ExpertScaleNormalizationMode."""

    NONE = 0
    RENORMALIZE = 1
    SPARSE_MIXER = 2
    DEVICE_LIMITED = 3
    DEVICE_LIMITED_RENORM = 4


@dataclass(frozen=True)
class ExpertsConfig:
    """The experts of the whole (padded) model, and over how many ranks they and their width are divided."""

    num_experts: int
    top_k: int
    intermediate_size: int
    shared_intermediate_size: int
    routing: Routing
    sparse_mixer_epsilon: float
    num_groups: int
    top_groups: int
    routed_scaling: float
    tp_size: int
    ep_size: int

    def held(self, tp_rank: int) -> range:
        """The experts of a tp rank: the ep ranks take contiguous runs, and are the fastest to change."""
        count = self.num_experts // self.ep_size
        start = tp_rank % self.ep_size * count
        return range(start, start + count)


@dataclass(frozen=True)
class LatentConfig:
    """Sizes of multi-head latent attention; the names are DeepSeek's."""

    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int


@dataclass(frozen=True)
class LongRope:
    """Divisors of the frequencies, [rotary_dim / 2], for short and for long sequences (Phi-3)."""

    short_factors: tuple[float, ...]
    long_factors: tuple[float, ...]
    original_length: int
    short_scale: float
    long_scale: float


@dataclass(frozen=True)
class Multipliers:
    """Constant factors, and the score scale before its softmax; a softcap None leaves values as they are."""

    score_scale: float
    score_softcap: float | None
    logit_softcap: float | None
    embedding: float
    residual: float
    logits: float


def read_experts(checkpoint: dict[str, Any]) -> ExpertsConfig | None:
    """The experts, or None for a dense model."""
    moe = checkpoint.get("moe")
    if not moe or not moe["num_experts"]:
        return None
    widths = [checkpoint.get(key) for key in ("moe_intermediate_size", "moe_inter_size", "intermediate_size")]
    mapping = checkpoint["mapping"]
    tp_size = mapping["tp_size"]
    ep_size = max(mapping.get("moe_ep_size", 1), 1)
    # Qwen states the width of its shared expert outside of `moe`.
    shared = checkpoint.get("moe_shared_expert_intermediate_size") or moe.get(
        "shared_expert_intermediate_size"
    )
    return ExpertsConfig(
        num_experts=moe["num_experts"],
        top_k=moe["top_k"],
        intermediate_size=next(width for width in widths if width),
        shared_intermediate_size=shared or 0,
        routing=Routing(moe["normalization_mode"]),
        sparse_mixer_epsilon=moe.get("sparse_mixer_epsilon", 0.01),
        num_groups=moe.get("device_limited_n_group") or 1,
        top_groups=moe.get("device_limited_topk_group") or 1,
        routed_scaling=moe.get("device_limited_routed_scaling_factor", 1.0),
        tp_size=tp_size // ep_size,
        ep_size=ep_size,
    )


def read_latent(checkpoint: dict[str, Any]) -> LatentConfig:
    """The sizes of latent attention.

    Raises:
        KeyError: one is missing.
    """
    return LatentConfig(
        q_lora_rank=checkpoint["q_lora_rank"],
        kv_lora_rank=checkpoint["kv_lora_rank"],
        qk_nope_head_dim=checkpoint["qk_nope_head_dim"],
        qk_rope_head_dim=checkpoint["qk_rope_head_dim"],
        v_head_dim=checkpoint["v_head_dim"],
    )


def read_longrope(checkpoint: dict[str, Any]) -> LongRope:
    """The factors of position_embedding_type "long_rope".

    Where config.json gives no scale of its own for short and long sequences, both are
    sqrt(1 + ln(max / original) / ln(original)). Source: transformers, modeling_rope_utils.py (longrope).

    Raises:
        KeyError: one is missing.
    """
    original = checkpoint["original_max_position_embeddings"]
    stretch = checkpoint["max_position_embeddings"] / original
    scale = math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 else 1.0
    return LongRope(
        short_factors=tuple(checkpoint["longrope_scaling_short_factors"]),
        long_factors=tuple(checkpoint["longrope_scaling_long_factors"]),
        original_length=original,
        short_scale=checkpoint.get("longrope_short_mscale") or scale,
        long_scale=checkpoint.get("longrope_long_mscale") or scale,
    )


def read_multipliers(
    checkpoint: dict[str, Any], *, latent: LatentConfig | None, sqrt_embedding: bool
) -> Multipliers:
    """The constant factors that the keys of any family stand for."""
    embedding = checkpoint.get("embedding_scale") or checkpoint.get("embedding_multiplier") or 1.0
    if sqrt_embedding:
        embedding *= math.sqrt(checkpoint["hidden_size"])
    return Multipliers(
        score_scale=_score_scale(checkpoint, latent),
        score_softcap=checkpoint.get("attn_logit_softcapping") or None,
        logit_softcap=checkpoint.get("final_logit_softcapping") or None,
        embedding=embedding,
        residual=checkpoint.get("residual_multiplier", 1.0),
        logits=checkpoint.get("output_multiplier_scale", 1.0),
    )


def _score_scale(checkpoint: dict[str, Any], latent: LatentConfig | None) -> float:
    """1 / sqrt(head size), or what the family has instead.

    Source: TensorRT-LLM 1.2, q_scaling of gemma/model.py, llama/model.py, gpt/model.py and of
    DeepseekV2Attention, whose yarn scale counts twice, once for the queries and once for the keys.
    """
    if latent is None:
        size = checkpoint.get("query_pre_attn_scalar") or checkpoint["head_size"]
        factor = checkpoint.get("attention_multiplier", 1.0) / checkpoint.get("q_scaling", 1.0)
        return float(factor / math.sqrt(size))
    scale = 1 / math.sqrt(latent.qk_nope_head_dim + latent.qk_rope_head_dim)
    scaling = checkpoint.get("rotary_scaling") or {}
    if rope_type(scaling) == "yarn" and scaling.get("mscale_all_dim"):
        scale *= yarn_scale(scaling["factor"], scaling["mscale_all_dim"]) ** 2
    return scale


def yarn_scale(factor: float, mscale: float = 1.0) -> float:
    """The factor that yarn puts on cosine and sine. Source: YaRN, section 3.4; DeepSeek-V2's mscale."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0
