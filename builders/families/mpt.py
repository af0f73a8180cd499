"""MPT: ALiBi, q, k, v stacked in one matrix and clipped, no biases at all, as a table.

Not here: MPT with fewer KV heads, learned positions or biases, which transformers does not know either.
Source: TensorRT-LLM 1.2, models/mpt and examples/models/contrib/mpt; transformers 5, models/mpt.
"""

from __future__ import annotations

from builders.families.common.base import ConfigField, Family, Row, SourceTensor
from builders.families.common.fields import BASE_FIELDS, constant, with_fields
from builders.families.common.keys import ConfigKeys
from builders.families.common.reading import ConfigReader
from builders.families.common.rows import (
    STACKED,
    TARGET,
    cut,
    embedding_rows,
    fused_qkv,
    lm_head_rows,
    norm_rows,
)
from builders.families.common.tensors import lm_head_tensor
from builders.families.llama import MAX_LAYERS, llama_sizes
from tpforge.model import AttentionSpec, MlpSpec, ModelSpec, NormSpec
from tpforge.shards.sharding import Cut, Stage

_LAYER = "transformer.blocks.{layer}."
_EMBEDDING = "transformer.wte.weight"
_FIXED_BY_TRANSFORMERS = "transformers computes the model as if this were not so"
_FIXED_BY_TENSORRT_LLM = "TensorRT-LLM's MPT has no place for it"
_ATTENTION_READS = (
    "alibi",
    "alibi_bias_max",
    "attn_type",
    "clip_qkv",
    "kv_n_heads",
    "prefix_lm",
    "qk_ln",
    "softmax_scale",
)


def _read(config: ConfigReader) -> ModelSpec:
    config.refuse_quantized()
    attention = config.within("attn_config")
    hidden_size = config.integer("d_model")
    num_heads = config.integer("n_heads")
    if hidden_size % num_heads:
        config.problem(f"d_model {hidden_size} is not a multiple of n_heads {num_heads}")
    config.require("no_bias", expected=(True,), why=_FIXED_BY_TRANSFORMERS)
    config.require("expansion_ratio", expected=(4,), why=_FIXED_BY_TRANSFORMERS)
    config.require("logit_scale", expected=(), why=_FIXED_BY_TENSORRT_LLM)
    # TensorRT-LLM makes the last norm with this epsilon, whatever config.json says.
    config.require("layer_norm_epsilon", expected=(1e-5,), why=_FIXED_BY_TENSORRT_LLM)
    config.require("norm_type", expected=("layernorm", "low_precision_layernorm"), why=_FIXED_BY_TRANSFORMERS)
    attention.require("alibi", expected=(True,), why=_FIXED_BY_TENSORRT_LLM)
    attention.require("attn_type", expected=("multihead_attention",), why=_FIXED_BY_TRANSFORMERS)
    attention.require("kv_n_heads", expected=(num_heads,), why=_FIXED_BY_TRANSFORMERS)
    attention.require("qk_ln", expected=(False,), why=_FIXED_BY_TRANSFORMERS)
    attention.require("prefix_lm", expected=(False,), why=_FIXED_BY_TRANSFORMERS)
    attention.require("softmax_scale", expected=(), why=_FIXED_BY_TENSORRT_LLM)
    # MPT's own code does as it is told, so that the two would be different models.
    attention.require("alibi_bias_max", expected=(8,), why=_FIXED_BY_TRANSFORMERS)
    vocab_size = config.integer("vocab_size")
    return config.checked(
        ModelSpec(
            architecture=config.architecture,
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            num_layers=config.integer("n_layers", maximum=MAX_LAYERS),
            max_position_embeddings=config.integer("max_seq_len"),
            dtype=config.dtype(),
            tie_word_embeddings=config.flag("tie_word_embeddings"),
            attention=AttentionSpec(
                num_heads=num_heads,
                num_kv_heads=num_heads,
                head_size=max(1, hidden_size // num_heads),
                clip_qkv=attention.number("clip_qkv") if attention.has("clip_qkv") else None,
            ),
            mlp=MlpSpec(intermediate_size=4 * hidden_size, activation="gelu", gated=False),
            rope=None,
            position="alibi",
            norm=NormSpec(epsilon=1e-5, kind="layernorm"),
            special_tokens=config.special_tokens(vocab_size=vocab_size),
        )
    )


MPT = Family(
    name="mpt",
    architectures=("MptForCausalLM", "MPTForCausalLM"),
    keys=ConfigKeys(
        "mpt",
        (
            *(f"attn_config.{key}" for key in _ATTENTION_READS),
            "attn_config",
            "d_model",
            "expansion_ratio",
            "layer_norm_epsilon",
            "logit_scale",
            "max_seq_len",
            "n_heads",
            "n_layers",
            "no_bias",
            "norm_type",
            "vocab_size",
        ),
        inert=(
            "attn_config.attn_impl",
            "attn_config.attn_uses_sequence_id",
            "embedding_fraction",
            "init_device",
            "learned_pos_emb",
            "verbose",
        ),
    ),
    read_spec=_read,
    sizes=llama_sizes,
    source_tensors=(
        SourceTensor(_EMBEDDING, ("vocab", "hidden")),
        SourceTensor(_LAYER + "norm_1.weight", ("hidden",)),
        SourceTensor(_LAYER + "attn.Wqkv.weight", ("qkv", "hidden")),
        SourceTensor(_LAYER + "attn.out_proj.weight", ("hidden", "query")),
        SourceTensor(_LAYER + "norm_2.weight", ("hidden",)),
        SourceTensor(_LAYER + "ffn.up_proj.weight", ("mlp", "hidden")),
        SourceTensor(_LAYER + "ffn.down_proj.weight", ("hidden", "mlp")),
        SourceTensor("transformer.norm_f.weight", ("hidden",)),
        lm_head_tensor(),
    ),
    rows=(
        *embedding_rows(_EMBEDDING),
        *norm_rows(TARGET + "input_layernorm", _LAYER + "norm_1", bias=False),
        Row(fused_qkv("weight", source=_LAYER + "attn.Wqkv", layout=STACKED)),
        Row(cut(TARGET + "attention.dense.weight", _LAYER + "attn.out_proj.weight", Cut.QUERY_COLUMNS)),
        *norm_rows(TARGET + "post_layernorm", _LAYER + "norm_2", bias=False),
        Row(cut(TARGET + "mlp.fc.weight", _LAYER + "ffn.up_proj.weight", Cut.MLP_ROWS)),
        Row(cut(TARGET + "mlp.proj.weight", _LAYER + "ffn.down_proj.weight", Cut.MLP_COLUMNS)),
        *norm_rows("transformer.ln_f", "transformer.norm_f", stage=Stage.LAST, bias=False),
        *lm_head_rows("lm_head.weight", embedding=_EMBEDDING),
    ),
    config_fields=(
        # The one name by which TensorRT-LLM finds its class.
        *with_fields(BASE_FIELDS, constant("architecture", "MPTForCausalLM")),
        constant("bias", False),
        ConfigField("clip_qkv", lambda plan, dtype: plan.model.attention.clip_qkv),
        ConfigField("alibi_bias_max", lambda plan, dtype: plan.model.attention.alibi_bias_max),
    ),
)
