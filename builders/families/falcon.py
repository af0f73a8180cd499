"""Falcon: 7B (one key for all heads), 40B (grouped keys, two norms), 11B, RefinedWeb (ALiBi), as a table.

Source: TensorRT-LLM 1.2, models/falcon/{config,convert,model}.py; transformers 5, models/falcon.
"""

from __future__ import annotations

from builders.families.common.base import ConfigField, Dropped, Family, Row, SourceTensor
from builders.families.common.fields import BASE_FIELDS, constant, with_fields
from builders.families.common.keys import ROPE_READS, ConfigKeys
from builders.families.common.plain import Keys, read_plain, with_attention
from builders.families.common.reading import ConfigReader
from builders.families.common.restrictions import heads_as_they_are
from builders.families.common.rope import read_whole_rope
from builders.families.common.rows import (
    GROUPED,
    TARGET,
    biased,
    embedding_rows,
    fused_qkv,
    linear_rows,
    lm_head_rows,
    norm_rows,
)
from builders.families.common.tensors import if_biased, linear_tensors, lm_head_tensor, norm_tensors
from builders.families.llama import llama_sizes
from tpforge.model import ModelSpec
from tpforge.shards.sharding import Cut, ShardPlan, Stage

_LAYER = "transformer.h.{layer}."
_QKV = _LAYER + "self_attention.query_key_value"
_EMBEDDING = "transformer.word_embeddings.weight"
_KEYS = Keys(width="ffn_hidden_size", activation="activation")


def _read(config: ConfigReader) -> ModelSpec:
    # TensorRT-LLM makes some of the norms with this epsilon, whatever config.json says.
    config.require("layer_norm_epsilon", expected=(1e-5,), why="TensorRT-LLM's Falcon has 1e-5")
    model = read_plain(
        config,
        _KEYS,
        activations=("gelu",),
        default_width=4,
        bias=config.flag("bias"),
    )
    new = config.flag("new_decoder_architecture")
    parallel = config.flag("parallel_attn") or new
    num_norms = config.integer("num_ln_in_parallel_attn", default=2 if new else 1, maximum=2)
    if num_norms == 2 and not new:
        config.problem("num_ln_in_parallel_attn: found 2 without new_decoder_architecture")
    alibi, rope = config.flag("alibi"), read_whole_rope(config, types=())
    changes = {
        "rope": None if alibi else rope,
        "position": "alibi_with_scale" if alibi else "rope_gpt_neox",
        "norm": model.norm.model_copy(update={"count": num_norms if parallel else 2}),
        "parallel_residual": parallel,
    }
    model = with_attention(model, num_kv_heads=_num_kv_heads(config, model, new=new))
    return config.checked(model.model_copy(update=changes))


def _num_kv_heads(config: ConfigReader, model: ModelSpec, *, new: bool) -> int:
    num_heads = model.attention.num_heads
    given = config.integer("num_kv_heads", default=num_heads)
    if new:
        return given
    return 1 if config.flag("multi_query") else num_heads


def _side_by_side(model: ModelSpec) -> bool:
    return model.parallel_residual and model.norm.count == 2


def _one_norm_first(model: ModelSpec) -> bool:
    return not _side_by_side(model)


def _sequential(model: ModelSpec) -> bool:
    return not model.parallel_residual


_NORMS = (
    (_LAYER + "input_layernorm", _one_norm_first),
    (_LAYER + "post_attention_layernorm", _sequential),
    (_LAYER + "ln_attn", _side_by_side),
    (_LAYER + "ln_mlp", _side_by_side),
)

FALCON = Family(
    name="falcon",
    architectures=("FalconForCausalLM", "RWForCausalLM"),
    keys=ConfigKeys(
        "falcon",
        (
            *_KEYS.reads,
            *ROPE_READS,
            "alibi",
            "bias",
            "multi_query",
            "new_decoder_architecture",
            "num_kv_heads",
            "num_ln_in_parallel_attn",
            "parallel_attn",
        ),
        renamed={"n_embed": "hidden_size", "n_head": "num_attention_heads", "n_layer": "num_hidden_layers"},
    ),
    read_spec=_read,
    sizes=llama_sizes,
    source_tensors=(
        SourceTensor(_EMBEDDING, ("vocab", "hidden")),
        *(tensor for norm, when in _NORMS for tensor in norm_tensors(norm, when=when)),
        *linear_tensors(_QKV, "qkv", "hidden", bias=if_biased),
        *linear_tensors(_LAYER + "self_attention.dense", "hidden", "query", bias=if_biased),
        *linear_tensors(_LAYER + "mlp.dense_h_to_4h", "mlp", "hidden", bias=if_biased),
        *linear_tensors(_LAYER + "mlp.dense_4h_to_h", "hidden", "mlp", bias=if_biased),
        *norm_tensors("transformer.ln_f"),
        lm_head_tensor(),
    ),
    rows=(
        *embedding_rows(_EMBEDDING),
        *norm_rows(
            TARGET + "input_layernorm",
            _LAYER + "input_layernorm",
            when=lambda plan: _one_norm_first(plan.model),
        ),
        *norm_rows(
            TARGET + "input_layernorm", _LAYER + "ln_attn", when=lambda plan: _side_by_side(plan.model)
        ),
        *norm_rows(TARGET + "mlp_layernorm", _LAYER + "ln_mlp", when=lambda plan: _side_by_side(plan.model)),
        *norm_rows(
            TARGET + "post_layernorm",
            _LAYER + "post_attention_layernorm",
            when=lambda plan: _sequential(plan.model),
        ),
        Row(fused_qkv("weight", source=_QKV, layout=GROUPED)),
        Row(fused_qkv("bias", source=_QKV, layout=GROUPED), when=biased),
        *linear_rows(
            TARGET + "attention.dense", _LAYER + "self_attention.dense", Cut.QUERY_COLUMNS, bias=biased
        ),
        *linear_rows(TARGET + "mlp.fc", _LAYER + "mlp.dense_h_to_4h", Cut.MLP_ROWS, bias=biased),
        *linear_rows(TARGET + "mlp.proj", _LAYER + "mlp.dense_4h_to_h", Cut.MLP_COLUMNS, bias=biased),
        *norm_rows("transformer.ln_f", "transformer.ln_f", stage=Stage.LAST),
        *lm_head_rows("lm_head.weight", embedding=_EMBEDDING),
    ),
    config_fields=(
        *with_fields(BASE_FIELDS, constant("architecture", "FalconForCausalLM")),
        ConfigField("bias", lambda plan, dtype: plan.model.attention.bias),
        ConfigField("parallel_attention", lambda plan, dtype: plan.model.parallel_residual),
        ConfigField("num_ln_in_parallel_attn", lambda plan, dtype: _norms_side_by_side(plan)),
        ConfigField("new_decoder_architecture", lambda plan, dtype: _is_new(plan)),
        ConfigField("rotary_base", lambda plan, dtype: plan.model.rope.base if plan.model.rope else 10000.0),
    ),
    restrictions=(heads_as_they_are,),
    dropped=(
        Dropped(
            r"transformer\.h\.\d+\.self_attention\.rotary_emb\.inv_freq",
            "recomputed by the runtime from rotary_base",
        ),
    ),
)


def _is_new(plan: ShardPlan) -> bool:
    """Grouped keys: neither one key for all heads nor one for each."""
    attention = plan.model.attention
    return plan.model.parallel_residual and (
        plan.model.norm.count == 2 or attention.num_kv_heads not in (1, attention.num_heads)
    )


def _norms_side_by_side(plan: ShardPlan) -> int | None:
    return plan.model.norm.count if _is_new(plan) else None
