"""Baichuan 1 and 2, 7B (rotary) and 13B (ALiBi): Llama with q, k, v stacked in one matrix, as a table.

Source: TensorRT-LLM 1.2, models/baichuan; the remote code of Baichuan-7B, -13B, Baichuan2-7B and -13B.
"""

from __future__ import annotations

from dataclasses import replace

from builders.families.base import ConfigField, Row, SourceTensor
from builders.families.fields import BASE_FIELDS
from builders.families.llama import (
    FIRST_ROWS,
    LLAMA,
    MLP_ROWS,
    MLP_TENSORS,
    OUTER_TENSORS,
    read_llama_like,
)
from builders.families.reading import ConfigReader
from builders.families.restrictions import heads_as_they_are
from builders.families.rows import STACKED, TARGET, copy, cut, fused_qkv
from tpforge.dtypes import DType
from tpforge.model import ModelSpec
from tpforge.sharding import Cut, Part, Rule, ShardPlan, Stage

_LAYER = "model.layers.{layer}."
_ATTENTION = _LAYER + "self_attn."
_VOCAB_SIZE_OF_1 = 64000


def _read(config: ConfigReader) -> ModelSpec:
    """The 13B models have ALiBi, and by that no max_position_embeddings but a model_max_length."""
    rotary = config.has("max_position_embeddings")
    config.require("tie_word_embeddings", expected=(False,), why="Baichuan has an LM head of its own")
    length = {} if rotary else {"max_position_embeddings": config.integer("model_max_length")}
    # TensorRT-LLM's Baichuan has no place for another base or a scaling of the rope.
    config.require("rope_theta", expected=(10000, 10000.0), why="expected 10000")
    model = read_llama_like(config.replaced(**length), rope_types=())
    if model.attention.num_kv_heads != model.attention.num_heads:
        config.problem("num_key_value_heads: Baichuan has as many as num_attention_heads")
    if not rotary:
        model = model.model_copy(update={"rope": None, "position": "alibi"})
    return config.checked(model)


def _is_second(plan: ShardPlan) -> bool:
    """Baichuan 2; TensorRT-LLM tells them by the size of the vocabulary too."""
    return plan.model.vocab_size != _VOCAB_SIZE_OF_1


def _version(plan: ShardPlan, dtype: DType) -> str:
    return f"v{2 if _is_second(plan) else 1}_{'7b' if plan.model.rope else '13b'}"


def _lm_head(transform: str | None) -> Rule:
    return Rule("lm_head.weight", (Part("lm_head.weight", Cut.VOCAB_ROWS, transform),), Stage.LAST)


BAICHUAN = replace(
    LLAMA,
    name="baichuan",
    architectures=("BaichuanForCausalLM", "BaiChuanForCausalLM"),
    read_model=_read,
    source_tensors=(
        *OUTER_TENSORS,
        SourceTensor(_LAYER + "input_layernorm.weight", ("hidden",)),
        SourceTensor(_ATTENTION + "W_pack.weight", ("qkv", "hidden")),
        SourceTensor(_ATTENTION + "o_proj.weight", ("hidden", "query")),
        SourceTensor(_LAYER + "post_attention_layernorm.weight", ("hidden",)),
        *MLP_TENSORS,
    ),
    rows=(
        *FIRST_ROWS,
        Row(copy(TARGET + "input_layernorm.weight", _LAYER + "input_layernorm.weight")),
        Row(fused_qkv("weight", source=_ATTENTION + "W_pack", layout=STACKED)),
        Row(cut(TARGET + "attention.dense.weight", _ATTENTION + "o_proj.weight", Cut.QUERY_COLUMNS)),
        Row(copy(TARGET + "post_layernorm.weight", _LAYER + "post_attention_layernorm.weight")),
        *MLP_ROWS,
        Row(copy("transformer.ln_f.weight", "model.norm.weight", stage=Stage.LAST)),
        Row(_lm_head("unit rows"), when=_is_second),
        Row(_lm_head(None), when=lambda plan: not _is_second(plan)),
    ),
    config_fields=(*BASE_FIELDS, ConfigField("model_version", _version)),
    restrictions=(heads_as_they_are,),
)
