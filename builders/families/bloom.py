"""BLOOM: ALiBi, a norm behind the embedding, q, k, v fused head by head, as a table.

Source: TensorRT-LLM 1.2, models/bloom; transformers 5, models/bloom.
"""

from __future__ import annotations

from builders.families.common.base import Family, Row, SourceTensor
from builders.families.common.fields import BASE_FIELDS
from builders.families.common.keys import ConfigKeys
from builders.families.common.plain import Keys, read_plain
from builders.families.common.reading import ConfigReader
from builders.families.common.rows import (
    GROUPED,
    TARGET,
    embedding_rows,
    fused_qkv,
    linear_rows,
    lm_head_rows,
    norm_rows,
)
from builders.families.common.tensors import linear_tensors, lm_head_tensor, norm_tensors
from builders.families.llama import llama_sizes
from tpforge.model import ModelSpec
from tpforge.shards.sharding import Cut, Stage

_LAYER = "transformer.h.{layer}."
_QKV = _LAYER + "self_attention.query_key_value"
_EMBEDDING = "transformer.word_embeddings.weight"
_KEYS = Keys(
    heads="n_head",
    layers="n_layer",
    # ALiBi has no last position; this is the length of training.
    length="seq_length",
    width=None,
    activation=None,
)
_NORMS = (
    "transformer.word_embeddings_layernorm",
    "transformer.ln_f",
    _LAYER + "input_layernorm",
    _LAYER + "post_attention_layernorm",
)


def _read(config: ConfigReader) -> ModelSpec:
    # TensorRT-LLM makes all norms with this epsilon, whatever config.json says.
    config.require("layer_norm_epsilon", expected=(1e-5,), why="TensorRT-LLM's BLOOM has 1e-5")
    config.require(
        "apply_residual_connection_post_layernorm", expected=(False,), why="this variant is not supported"
    )
    length = config.integer("seq_length", default=2048)
    model = read_plain(config.replaced(seq_length=length), _KEYS, activations=("gelu",), default_width=4)
    return config.checked(model.model_copy(update={"position": "alibi"}))


BLOOM = Family(
    name="bloom",
    architectures=("BloomForCausalLM",),
    keys=ConfigKeys(
        "bloom",
        (*_KEYS.reads, "apply_residual_connection_post_layernorm"),
        inert=("slow_but_exact",),
        renamed={"n_embed": "hidden_size"},
    ),
    read_spec=_read,
    sizes=llama_sizes,
    source_tensors=(
        SourceTensor(_EMBEDDING, ("vocab", "hidden")),
        *(tensor for norm in _NORMS for tensor in norm_tensors(norm)),
        *linear_tensors(_QKV, "qkv", "hidden"),
        *linear_tensors(_LAYER + "self_attention.dense", "hidden", "query"),
        *linear_tensors(_LAYER + "mlp.dense_h_to_4h", "mlp", "hidden"),
        *linear_tensors(_LAYER + "mlp.dense_4h_to_h", "hidden", "mlp"),
        lm_head_tensor(),
    ),
    rows=(
        *embedding_rows(_EMBEDDING),
        *norm_rows("transformer.ln_embed", "transformer.word_embeddings_layernorm", stage=Stage.FIRST),
        *norm_rows(TARGET + "input_layernorm", _LAYER + "input_layernorm"),
        Row(fused_qkv("weight", source=_QKV, layout=GROUPED)),
        Row(fused_qkv("bias", source=_QKV, layout=GROUPED)),
        *linear_rows(TARGET + "attention.dense", _LAYER + "self_attention.dense", Cut.QUERY_COLUMNS),
        *norm_rows(TARGET + "post_layernorm", _LAYER + "post_attention_layernorm"),
        *linear_rows(TARGET + "mlp.fc", _LAYER + "mlp.dense_h_to_4h", Cut.MLP_ROWS),
        *linear_rows(TARGET + "mlp.proj", _LAYER + "mlp.dense_4h_to_h", Cut.MLP_COLUMNS),
        *norm_rows("transformer.ln_f", "transformer.ln_f", stage=Stage.LAST),
        *lm_head_rows("lm_head.weight", embedding=_EMBEDDING),
    ),
    config_fields=BASE_FIELDS,
    optional_prefix="transformer.",
)
