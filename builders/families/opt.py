"""OPT: layer norms before the blocks, learned positions that start at the third row, as a table.

Not here: OPT-350M, whose norms come after the blocks and whose embeddings are projected.
Source: TensorRT-LLM 1.2, models/opt; transformers 5, models/opt.
"""

from __future__ import annotations

from builders.families.common.base import Family, Row, SourceTensor
from builders.families.common.fields import BASE_FIELDS, constant
from builders.families.common.keys import ConfigKeys
from builders.families.common.plain import Keys, read_plain
from builders.families.common.reading import ConfigReader
from builders.families.common.restrictions import heads_as_they_are
from builders.families.common.rows import (
    TARGET,
    embedding_rows,
    linear_rows,
    lm_head_rows,
    norm_rows,
    separate_qkv,
)
from builders.families.common.tensors import linear_tensors, lm_head_tensor, norm_tensors
from builders.families.llama import llama_sizes
from tpforge.model import ModelSpec
from tpforge.shards.sections import Section
from tpforge.shards.sharding import Cut, Part, Rule, Stage

_LAYER = "model.decoder.layers.{layer}."
_ATTENTION = _LAYER + "self_attn."
_EMBEDDING = "model.decoder.embed_tokens.weight"
_POSITIONS = "model.decoder.embed_positions.weight"
_KEYS = Keys(width="ffn_dim", activation="activation_function", epsilon=None)
_VARIANTS = ("do_layer_norm_before", "enable_bias", "layer_norm_elementwise_affine")
_NAMES = {"query": _ATTENTION + "q_proj", "key": _ATTENTION + "k_proj", "value": _ATTENTION + "v_proj"}


def _read(config: ConfigReader) -> ModelSpec:
    model = read_plain(config, _KEYS, activations=("relu", "gelu"))
    for key in _VARIANTS:
        config.require(key, expected=(True,), why="this variant of OPT is not supported")
    config.require(
        "word_embed_proj_dim", expected=(model.hidden_size,), why="projected embeddings are not in the format"
    )
    config.require("_remove_final_layer_norm", expected=(False,), why="the format has a final norm")
    return config.checked(model)


def _sizes(model: ModelSpec) -> dict[str, int]:
    # The first two rows of the table stand for padding.
    return llama_sizes(model) | {"positions": model.max_position_embeddings + 2}


OPT = Family(
    name="opt",
    architectures=("OPTForCausalLM",),
    keys=ConfigKeys(
        "opt",
        (*_KEYS.reads, *_VARIANTS, "_remove_final_layer_norm", "word_embed_proj_dim"),
        inert=("dropout", "init_std", "layerdrop"),
    ),
    read_spec=_read,
    sizes=_sizes,
    source_tensors=(
        SourceTensor(_EMBEDDING, ("vocab", "hidden")),
        SourceTensor(_POSITIONS, ("positions", "hidden")),
        *norm_tensors("model.decoder.final_layer_norm"),
        *norm_tensors(_LAYER + "self_attn_layer_norm"),
        *norm_tensors(_LAYER + "final_layer_norm"),
        *linear_tensors(_ATTENTION + "q_proj", "query", "hidden"),
        *linear_tensors(_ATTENTION + "k_proj", "kv", "hidden"),
        *linear_tensors(_ATTENTION + "v_proj", "kv", "hidden"),
        *linear_tensors(_ATTENTION + "out_proj", "hidden", "query"),
        *linear_tensors(_LAYER + "fc1", "mlp", "hidden"),
        *linear_tensors(_LAYER + "fc2", "hidden", "mlp"),
        lm_head_tensor(),
    ),
    rows=(
        *embedding_rows(_EMBEDDING),
        Row(
            Rule(
                "transformer.position_embedding.weight",
                (Part(_POSITIONS, Cut.COPY, section=Section.AFTER_TWO),),
                Stage.FIRST,
            )
        ),
        *norm_rows(TARGET + "input_layernorm", _LAYER + "self_attn_layer_norm"),
        Row(separate_qkv("weight", **_NAMES)),
        Row(separate_qkv("bias", **_NAMES)),
        *linear_rows(TARGET + "attention.dense", _ATTENTION + "out_proj", Cut.QUERY_COLUMNS),
        *norm_rows(TARGET + "post_layernorm", _LAYER + "final_layer_norm"),
        *linear_rows(TARGET + "mlp.fc", _LAYER + "fc1", Cut.MLP_ROWS),
        *linear_rows(TARGET + "mlp.proj", _LAYER + "fc2", Cut.MLP_COLUMNS),
        *norm_rows("transformer.ln_f", "model.decoder.final_layer_norm", stage=Stage.LAST),
        *lm_head_rows("lm_head.weight", embedding=_EMBEDDING),
    ),
    config_fields=(*BASE_FIELDS, constant("do_layer_norm_before", True)),
    optional_prefix="model.",
    restrictions=(heads_as_they_are,),
)
