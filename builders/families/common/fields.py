"""TensorRT-LLM's config.json, key by key: the fields that families put their tables together from.

It writes no file. Sizes are those of the padded model with an explicit head_size; vocab_size is not padded.
Source: TensorRT-LLM 1.2, models/modeling_utils.py, models/llama/config.py, mapping.py, layers/moe.py.
"""

from __future__ import annotations

import math
from typing import Any

from builders.families.common.base import ConfigField
from tpforge.dtypes import DType
from tpforge.model import ModelSpec, RopeSpec
from tpforge.shards.sharding import ShardPlan

GPUS_PER_NODE = 8


def constant(key: str, value: Any) -> ConfigField:
    """A key whose value does not depend on the model."""
    return ConfigField(key, lambda plan, dtype: value)


def rope(model: ModelSpec) -> RopeSpec:
    """The rotary embedding of a family whose models all have one."""
    assert model.rope is not None, "a family of rotary models read one without a rope"
    return model.rope


def _rotary_dim(model: ModelSpec) -> int:
    """The dims of a head that are rotated; upstream writes the head size of models without a rope too."""
    return int(model.attention.head_size * (model.rope.partial_factor if model.rope else 1.0))


def _attention_multiplier(model: ModelSpec) -> float:
    """The factor on scores that are divided by sqrt(head_size) already."""
    scale = model.attention.scale
    return 1.0 if scale is None else scale * math.sqrt(model.attention.head_size)


def _mapping(plan: ShardPlan, dtype: DType) -> dict[str, Any]:
    tp_size, pp_size = plan.mapping.tp_size, plan.mapping.pp_size
    return {
        "world_size": plan.mapping.world_size,
        "gpus_per_node": GPUS_PER_NODE,
        "cp_size": 1,
        "tp_size": tp_size,
        "pp_size": pp_size,
        "moe_tp_size": plan.mapping.moe_tp_size,
        "moe_cluster_size": 1,
        "moe_ep_size": plan.mapping.moe_ep_size,
        "attn_tp_size": tp_size,
        "attn_cp_size": 1,
        "cp_config": {},
        "enable_attention_dp": False,
        "enable_lm_head_tp_in_adp": False,
    }


NO_QUANTIZATION: dict[str, Any] = {
    "quant_algo": None,
    "kv_cache_quant_algo": None,
    "group_size": 128,
    "smoothquant_val": 0.5,
    "clamp_val": None,
    "use_meta_recipe": False,
    "has_zero_point": False,
    "pre_quant_scale": False,
    "exclude_modules": None,
}

DENSE_MOE: dict[str, Any] = {
    "num_experts": 0,
    "shared_expert_intermediate_size": 0,
    "top_k": 0,
    "normalization_mode": None,
    "sparse_mixer_epsilon": 0.01,
    "tp_mode": 0,
    "device_limited_n_group": 0,
    "device_limited_topk_group": 0,
    "device_limited_routed_scaling_factor": 1.0,
}

BASE_FIELDS = (
    ConfigField("architecture", lambda plan, dtype: plan.model.architecture),
    ConfigField("dtype", lambda plan, dtype: str(dtype)),
    constant("logits_dtype", "float32"),
    ConfigField("vocab_size", lambda plan, dtype: plan.model.vocab_size),
    ConfigField("hidden_size", lambda plan, dtype: plan.model.hidden_size),
    ConfigField("num_hidden_layers", lambda plan, dtype: plan.model.num_layers),
    ConfigField("num_attention_heads", lambda plan, dtype: plan.padding.heads.num_heads),
    ConfigField("num_key_value_heads", lambda plan, dtype: plan.padding.heads.num_kv_heads),
    ConfigField("head_size", lambda plan, dtype: plan.model.attention.head_size),
    constant("qk_layernorm", False),
    ConfigField("hidden_act", lambda plan, dtype: plan.model.mlp.activation),
    ConfigField("intermediate_size", lambda plan, dtype: plan.padding.intermediate_size),
    ConfigField("norm_epsilon", lambda plan, dtype: plan.model.norm.epsilon),
    ConfigField("position_embedding_type", lambda plan, dtype: plan.model.position),
    ConfigField("max_position_embeddings", lambda plan, dtype: plan.model.max_position_embeddings),
    ConfigField("rotary_embedding_dim", lambda plan, dtype: _rotary_dim(plan.model)),
    ConfigField("tie_word_embeddings", lambda plan, dtype: plan.model.tie_word_embeddings),
    ConfigField("use_parallel_embedding", lambda plan, dtype: plan.parallel_embedding_dim is not None),
    ConfigField("embedding_sharding_dim", lambda plan, dtype: plan.parallel_embedding_dim or 0),
    ConfigField("mapping", _mapping),
    constant("quantization", NO_QUANTIZATION),
    constant("runtime_defaults", None),
    # TensorRT-LLM 1.2
    constant("has_partial_lora_mask", False),
)

LLAMA_FIELDS = (
    ConfigField("mlp_bias", lambda plan, dtype: plan.model.mlp.bias),
    ConfigField("attn_bias", lambda plan, dtype: plan.model.attention.bias),
    ConfigField("rotary_base", lambda plan, dtype: rope(plan.model).base),
    ConfigField("rotary_scaling", lambda plan, dtype: rope(plan.model).scaling),
    constant("residual_mlp", False),
    constant("disable_weight_only_quant_plugin", False),
    constant("moe", DENSE_MOE),
    constant("remove_duplicated_kv_heads", False),
    constant("fc_after_embed", False),
    constant("use_input_layernorm_in_first_layer", True),
    constant("use_last_layernorm", True),
    constant("layer_idx_offset", 0),
    # TensorRT-LLM 1.2
    ConfigField("embedding_multiplier", lambda plan, dtype: plan.model.multipliers.embedding),
    ConfigField("attention_multiplier", lambda plan, dtype: _attention_multiplier(plan.model)),
    ConfigField("residual_multiplier", lambda plan, dtype: plan.model.multipliers.residual),
    ConfigField("output_multiplier_scale", lambda plan, dtype: plan.model.multipliers.logits),
)

GPT_FIELDS = (
    *BASE_FIELDS,
    ConfigField("bias", lambda plan, dtype: plan.model.attention.bias),
    constant("q_scaling", 1.0),
    constant("embedding_scale", None),
    constant("apply_query_key_layer_scaling", False),
    ConfigField("rotary_pct", lambda plan, dtype: plan.model.rope.partial_factor if plan.model.rope else 1.0),
    ConfigField("rotary_base", lambda plan, dtype: plan.model.rope.base if plan.model.rope else 10000.0),
    ConfigField("rotary_scaling", lambda plan, dtype: plan.model.rope.scaling if plan.model.rope else None),
    constant("moe", DENSE_MOE | {"normalization_mode": 1}),
    constant("inner_layernorm", False),
    constant("norm_before_bmm1", False),
)
"""Source: TensorRT-LLM 1.2, models/gpt/config.py."""

ROTARY_FIELDS = (
    ConfigField("rotary_base", lambda plan, dtype: rope(plan.model).base),
    ConfigField("rotary_scaling", lambda plan, dtype: rope(plan.model).scaling),
)

EXPERT_SIZE = ConfigField("intermediate_size", lambda plan, dtype: plan.padding.expert_size)
"""For architectures whose experts have the one width that config.json states."""
QK_NORM = ConfigField("qk_layernorm", lambda plan, dtype: plan.model.attention.qk_norm)
SWIGLU = constant("hidden_act", "swiglu")
"""A gated activation on fused halves, which upstream spells so."""


def moe_field(**others: Any) -> ConfigField:
    """`moe` of a model with experts; `others` are further keys of it.

    normalization_mode is 0 for none, 1 to renormalize the weights of the chosen experts, 2 for sparsemixer.
    Source: TensorRT-LLM 1.2, layers/moe.py, MoeConfig.ExpertScaleNormalizationMode.
    """

    def value(plan: ShardPlan, dtype: DType) -> dict[str, Any]:
        moe = plan.model.moe
        assert moe is not None, "the moe field of a model without experts"
        return (
            DENSE_MOE
            | {
                "num_experts": moe.num_experts,
                "top_k": moe.top_k,
                "normalization_mode": 2 if moe.scoring == "sparsemixer" else int(moe.normalize),
            }
            | others
        )

    return ConfigField("moe", value)


def with_fields(fields: tuple[ConfigField, ...], *changes: ConfigField) -> tuple[ConfigField, ...]:
    """`fields` with some replaced in their place; new ones come at the end."""
    by_key = {field.key: field for field in fields}
    return tuple((by_key | {change.key: change for change in changes}).values())
