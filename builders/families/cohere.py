"""Command R, Command R+ and Aya: one norm before both blocks, norms of each head, as a table.

Not here: Cohere 2 (Command R7B, Command A), which TensorRT-LLM runs on its PyTorch backend alone.
Source: TensorRT-LLM 1.2, models/commandr/{config,model}.py and layers/attention.py; transformers 5,
models/cohere.
"""

from __future__ import annotations

from dataclasses import replace

from builders.families.common.base import ConfigField, Row, SourceTensor
from builders.families.common.fields import BASE_FIELDS, QK_NORM, constant, rope, with_fields
from builders.families.common.keys import ConfigKeys
from builders.families.common.reading import ConfigReader
from builders.families.common.restrictions import embedding_by_rows
from builders.families.common.rows import TARGET, cut, divided_embedding_rows
from builders.families.llama import (
    ATTENTION_ROWS,
    ATTENTION_TENSORS,
    LAST_ROWS,
    LLAMA,
    MLP_ROWS,
    MLP_TENSORS,
    OUTER_TENSORS,
    llama_reads,
    llama_sizes,
    read_llama_like,
)
from tpforge.model import ModelSpec, MultiplierSpec, NormSpec
from tpforge.shards.sharding import Cut, ShardPlan

_EMBEDDING = "model.embed_tokens.weight"
_ATTENTION = "model.layers.{layer}.self_attn."
_SECOND_NORM = "post_attention_layernorm"


def _read(config: ConfigReader) -> ModelSpec:
    bias = config.flag("attention_bias")
    model = read_llama_like(
        config,
        bias=bias,
        output_bias=bias,
        qk_norm=config.flag("use_qk_norm"),
        epsilon_key="layer_norm_eps",
        rope_types=(),
    )
    changes = {
        "position": "rope_gptj",
        "parallel_residual": True,
        "norm": NormSpec(epsilon=model.norm.epsilon, kind="layernorm", count=1),
        "multipliers": MultiplierSpec(logits=config.number("logit_scale")),
    }
    return config.checked(model.model_copy(update=changes))


def _sizes(model: ModelSpec) -> dict[str, int]:
    attention = model.attention
    return llama_sizes(model) | {"heads": attention.num_heads, "kv_heads": attention.num_kv_heads}


def _qk_norm(plan: ShardPlan) -> bool:
    return plan.model.attention.qk_norm


def _has_qk_norm(model: ModelSpec) -> bool:
    return model.attention.qk_norm


COHERE = replace(
    LLAMA,
    name="cohere",
    architectures=("CohereForCausalLM",),
    keys=ConfigKeys(
        "cohere",
        llama_reads("attention_bias", "logit_scale", "use_qk_norm", epsilon_key="layer_norm_eps"),
    ),
    read_spec=_read,
    sizes=_sizes,
    source_tensors=(
        *OUTER_TENSORS,
        *(tensor for tensor in ATTENTION_TENSORS if _SECOND_NORM not in tensor.name),
        SourceTensor(_ATTENTION + "q_norm.weight", ("heads", "head"), when=_has_qk_norm),
        SourceTensor(_ATTENTION + "k_norm.weight", ("kv_heads", "head"), when=_has_qk_norm),
        *MLP_TENSORS,
    ),
    rows=(
        *divided_embedding_rows(_EMBEDDING),
        *(row for row in ATTENTION_ROWS if not row.rule.target.endswith("post_layernorm.weight")),
        # A row of weights for each head.
        Row(
            cut(TARGET + "attention.q_layernorm.weight", _ATTENTION + "q_norm.weight", Cut.QUERY_ROWS),
            when=_qk_norm,
        ),
        Row(
            cut(TARGET + "attention.k_layernorm.weight", _ATTENTION + "k_norm.weight", Cut.KV_ROWS),
            when=_qk_norm,
        ),
        *MLP_ROWS,
        *LAST_ROWS,
    ),
    config_fields=(
        *with_fields(
            BASE_FIELDS,
            QK_NORM,
            constant("use_parallel_embedding", True),
            constant("embedding_sharding_dim", 0),
        ),
        ConfigField("output_multiplier_scale", lambda plan, dtype: plan.model.multipliers.logits),
        ConfigField("rotary_base", lambda plan, dtype: rope(plan.model).base),
        ConfigField("attn_bias", lambda plan, dtype: plan.model.attention.bias),
    ),
    restrictions=(embedding_by_rows,),
)
