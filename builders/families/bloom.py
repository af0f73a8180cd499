"""BLOOM: ALiBi, a norm behind the embedding, q, k, v fused head by head, as a table.

Source: TensorRT-LLM 1.2, models/bloom; transformers 5, models/bloom.
"""

from __future__ import annotations

from builders.families.base import Family, Row, SourceTensor
from builders.families.fields import BASE_FIELDS
from builders.families.llama import MAX_LAYERS, llama_sizes
from builders.families.reading import ConfigReader
from builders.families.rows import (
    GROUPED,
    TARGET,
    embedding_rows,
    fused_qkv,
    linear_rows,
    lm_head_rows,
    norm_rows,
)
from tpforge.model import AttentionSpec, MlpSpec, ModelSpec, NormSpec
from tpforge.sharding import Cut, ShardPlan, Stage

_LAYER = "transformer.h.{layer}."
_QKV = _LAYER + "self_attention.query_key_value"
_EMBEDDING = "transformer.word_embeddings.weight"
_NORMS = (
    "transformer.word_embeddings_layernorm",
    "transformer.ln_f",
    _LAYER + "input_layernorm",
    _LAYER + "post_attention_layernorm",
)


def _read(config: ConfigReader) -> ModelSpec:
    config.refuse_quantized()
    # TensorRT-LLM makes all norms with this epsilon, whatever config.json says.
    config.require("layer_norm_epsilon", expected=(1e-5,), why="TensorRT-LLM's BLOOM has 1e-5")
    config.require(
        "apply_residual_connection_post_layernorm", expected=(False,), why="this variant is not supported"
    )
    hidden_size = config.integer("hidden_size" if config.has("hidden_size") else "n_embed")
    num_heads = config.integer("n_head" if config.has("n_head") else "num_attention_heads")
    vocab_size = config.integer("vocab_size")
    return config.checked(
        ModelSpec(
            architecture=config.architecture,
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            num_layers=config.integer(
                "n_layer" if config.has("n_layer") else "num_hidden_layers", maximum=MAX_LAYERS
            ),
            # ALiBi has no last position; this is the length of training.
            max_position_embeddings=config.integer("seq_length", default=2048),
            dtype=config.dtype(),
            tie_word_embeddings=config.flag("tie_word_embeddings", default=True),
            attention=AttentionSpec(
                num_heads=num_heads,
                num_kv_heads=num_heads,
                head_size=max(1, hidden_size // num_heads),
                bias=True,
                output_bias=True,
            ),
            mlp=MlpSpec(intermediate_size=4 * hidden_size, activation="gelu", bias=True, gated=False),
            rope=None,
            position="alibi",
            norm=NormSpec(
                epsilon=config.number("layer_norm_epsilon", default=1e-5), kind="layernorm", bias=True
            ),
            special_tokens=config.special_tokens(vocab_size=vocab_size),
        )
    )


def _sizes(model: ModelSpec) -> dict[str, int]:
    sizes = llama_sizes(model)
    return sizes | {"qkv": sizes["query"] + 2 * sizes["kv"]}


def _always(plan: ShardPlan) -> bool:
    return True


BLOOM = Family(
    name="bloom",
    architectures=("BloomForCausalLM",),
    read_model=_read,
    sizes=_sizes,
    source_tensors=(
        SourceTensor(_EMBEDDING, ("vocab", "hidden")),
        *(SourceTensor(f"{norm}.{suffix}", ("hidden",)) for norm in _NORMS for suffix in ("weight", "bias")),
        SourceTensor(_QKV + ".weight", ("qkv", "hidden")),
        SourceTensor(_QKV + ".bias", ("qkv",)),
        SourceTensor(_LAYER + "self_attention.dense.weight", ("hidden", "query")),
        SourceTensor(_LAYER + "self_attention.dense.bias", ("hidden",)),
        SourceTensor(_LAYER + "mlp.dense_h_to_4h.weight", ("mlp", "hidden")),
        SourceTensor(_LAYER + "mlp.dense_h_to_4h.bias", ("mlp",)),
        SourceTensor(_LAYER + "mlp.dense_4h_to_h.weight", ("hidden", "mlp")),
        SourceTensor(_LAYER + "mlp.dense_4h_to_h.bias", ("hidden",)),
        SourceTensor("lm_head.weight", ("vocab", "hidden"), when=lambda model: not model.tie_word_embeddings),
    ),
    rows=(
        *embedding_rows(_EMBEDDING),
        *norm_rows("transformer.ln_embed", "transformer.word_embeddings_layernorm", stage=Stage.FIRST),
        *norm_rows(TARGET + "input_layernorm", _LAYER + "input_layernorm"),
        Row(fused_qkv("weight", source=_QKV, layout=GROUPED)),
        Row(fused_qkv("bias", source=_QKV, layout=GROUPED)),
        *linear_rows(
            TARGET + "attention.dense", _LAYER + "self_attention.dense", Cut.QUERY_COLUMNS, bias=_always
        ),
        *norm_rows(TARGET + "post_layernorm", _LAYER + "post_attention_layernorm"),
        *linear_rows(TARGET + "mlp.fc", _LAYER + "mlp.dense_h_to_4h", Cut.MLP_ROWS, bias=_always),
        *linear_rows(TARGET + "mlp.proj", _LAYER + "mlp.dense_4h_to_h", Cut.MLP_COLUMNS, bias=_always),
        *norm_rows("transformer.ln_f", "transformer.ln_f", stage=Stage.LAST),
        *lm_head_rows("lm_head.weight", embedding=_EMBEDDING),
    ),
    config_fields=BASE_FIELDS,
    optional_prefix="transformer.",
)
