"""Baichuan 1 and 2, 7B (rotary) and 13B (ALiBi): Llama with q, k, v stacked in one matrix, as a table.

Source: TensorRT-LLM 1.2, models/baichuan; the remote code of Baichuan-7B, -13B, Baichuan2-7B and -13B.
"""

from __future__ import annotations

from dataclasses import replace

from builders.families.common.base import ConfigField, Row, SourceTensor
from builders.families.common.fields import BASE_FIELDS
from builders.families.common.keys import ConfigKeys
from builders.families.common.reading import ConfigReader
from builders.families.common.restrictions import heads_as_they_are
from builders.families.common.rows import STACKED, TARGET, copy, cut, fused_qkv
from builders.families.llama import (
    FIRST_ROWS,
    LLAMA,
    MLP_ROWS,
    MLP_TENSORS,
    OUTER_TENSORS,
    llama_reads,
    read_llama_like,
)
from tpforge.dtypes import DType
from tpforge.model import ModelSpec
from tpforge.shards.sharding import Cut, Part, Rule, ShardPlan, Stage

_LAYER = "model.layers.{layer}."
_ATTENTION = _LAYER + "self_attn."
_VOCAB_SIZE_OF_1, _VOCAB_SIZE_OF_2 = 64000, 125696
_FIRST_7B = "BaiChuanForCausalLM"
_HEADS = "Baichuan has as many as num_attention_heads"
_READS = llama_reads("model_max_length", "z_loss_weight")


def _read(config: ConfigReader) -> ModelSpec:
    """The 13B models have ALiBi, and by that no max_position_embeddings but a model_max_length."""
    rotary = config.has("max_position_embeddings")
    config.require("tie_word_embeddings", expected=(False,), why="Baichuan has an LM head of its own")
    length = {} if rotary else {"max_position_embeddings": config.integer("model_max_length")}
    # TensorRT-LLM's Baichuan has no place for another base or a scaling of the rope.
    config.require("rope_theta", expected=(10000, 10000.0), why="expected 10000")
    config.require("num_key_value_heads", expected=(config.value("num_attention_heads"),), why=_HEADS)
    base = {"rope_theta": 10000.0, "num_key_value_heads": None}
    model = read_llama_like(config.replaced(**length, **base), rope_types=())
    if not rotary:
        model = model.model_copy(update={"rope": None, "position": "alibi"})
    return config.checked(model.model_copy(update={"unit_lm_head": _reads_second(config, model.vocab_size)}))


def _reads_second(config: ConfigReader, vocab_size: int) -> bool:
    """Whether it is Baichuan 2, whose code normalizes each row of the LM head.

    Its configs alone have z_loss_weight; the 7B of the first version is spelled with a capital C.
    Vocabularies tell the versions apart only as they were published: tokens are added to both.
    """
    if config.architecture == _FIRST_7B:
        config.require("z_loss_weight", expected=(), why=f"Baichuan 2 has it, and {_FIRST_7B} is the first")
        return False
    if config.has("z_loss_weight") or vocab_size == _VOCAB_SIZE_OF_2:
        return True
    if vocab_size != _VOCAB_SIZE_OF_1:
        config.problem(
            f"vocab_size: found {vocab_size}, neither {_VOCAB_SIZE_OF_1} (Baichuan) nor {_VOCAB_SIZE_OF_2} "
            "(Baichuan 2), and no z_loss_weight, which Baichuan 2 has: the two compute their logits "
            f'differently; add "z_loss_weight": 0 for Baichuan 2, or name the architecture {_FIRST_7B}'
        )
    return False


def _is_second(plan: ShardPlan) -> bool:
    return plan.model.unit_lm_head


def _version(plan: ShardPlan, dtype: DType) -> str:
    return f"v{2 if _is_second(plan) else 1}_{'7b' if plan.model.rope else '13b'}"


def _lm_head(transform: str | None) -> Rule:
    return Rule("lm_head.weight", (Part("lm_head.weight", Cut.VOCAB_ROWS, transform),), Stage.LAST)


BAICHUAN = replace(
    LLAMA,
    name="baichuan",
    architectures=("BaichuanForCausalLM", "BaiChuanForCausalLM"),
    keys=ConfigKeys("baichuan", _READS),
    read_spec=_read,
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
