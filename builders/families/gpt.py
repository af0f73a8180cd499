"""GPT-2, GPT-BigCode, StarCoder 2 and Nemotron: the families of TensorRT-LLM's GPT model, as tables.

Source: TensorRT-LLM 1.2, models/gpt/{config,convert,model}.py; transformers 5, models/gpt2, gpt_bigcode,
starcoder2, nemotron.
"""

from __future__ import annotations

from dataclasses import replace

from builders.families.common.base import ConfigField, Dropped, Family, Row, SourceTensor
from builders.families.common.fields import GPT_FIELDS, constant, with_fields
from builders.families.common.keys import ConfigKeys
from builders.families.common.plain import GPT_KEYS, read_plain, with_attention
from builders.families.common.reading import ConfigReader
from builders.families.common.rows import (
    GROUPED,
    STACKED,
    TARGET,
    biased,
    copy,
    cut,
    embedding_rows,
    fused_qkv,
    linear_rows,
    lm_head_rows,
    mlp_biased,
    norm_rows,
    separate_qkv,
)
from builders.families.common.tensors import if_biased, if_mlp_biased, if_untied
from builders.families.common.windows import read_window
from builders.families.llama import llama_reads, llama_sizes, read_llama_like
from tpforge.model import ModelSpec, NormSpec
from tpforge.shards.sharding import Cut, ShardPlan, Stage

_H = "transformer.h.{layer}."
_GPT2_ACTIVATIONS = ("gelu_new", "gelu", "gelu_pytorch_tanh", "relu", "silu", "gelu_fast")


def _read_gpt2(config: ConfigReader) -> ModelSpec:
    config.require("scale_attn_by_inverse_layer_idx", expected=(False,), why="the format cannot hold it")
    return _read_absolute(config, num_kv_heads=None)


def _read_bigcode(config: ConfigReader) -> ModelSpec:
    multi_query = config.flag("multi_query")
    return _read_absolute(config, num_kv_heads=1 if multi_query else None)


def _read_absolute(config: ConfigReader, *, num_kv_heads: int | None) -> ModelSpec:
    config.require("scale_attn_weights", expected=(True,), why="the format cannot hold unscaled scores")
    config.require("add_cross_attention", expected=(False,), why="only decoders are converted")
    model = read_plain(config, GPT_KEYS, activations=_GPT2_ACTIVATIONS, default_width=4)
    if num_kv_heads is not None:
        model = with_attention(model, num_kv_heads=num_kv_heads)
    return config.checked(model)


def _sizes(model: ModelSpec) -> dict[str, int]:
    return llama_sizes(model) | {"positions": model.max_position_embeddings}


def _is_multi_query(plan: ShardPlan) -> bool:
    return plan.model.attention.num_kv_heads == 1


def _has_own_keys(plan: ShardPlan) -> bool:
    return not _is_multi_query(plan)


_OUTER_TENSORS = (
    SourceTensor("transformer.wte.weight", ("vocab", "hidden")),
    SourceTensor("transformer.wpe.weight", ("positions", "hidden")),
    SourceTensor("transformer.ln_f.weight", ("hidden",)),
    SourceTensor("transformer.ln_f.bias", ("hidden",)),
    SourceTensor("lm_head.weight", ("vocab", "hidden"), when=if_untied),
    SourceTensor(_H + "ln_1.weight", ("hidden",)),
    SourceTensor(_H + "ln_1.bias", ("hidden",)),
    SourceTensor(_H + "ln_2.weight", ("hidden",)),
    SourceTensor(_H + "ln_2.bias", ("hidden",)),
    SourceTensor(_H + "attn.c_attn.bias", ("qkv",)),
    SourceTensor(_H + "attn.c_proj.bias", ("hidden",)),
    SourceTensor(_H + "mlp.c_fc.bias", ("mlp",)),
    SourceTensor(_H + "mlp.c_proj.bias", ("hidden",)),
)
_FIRST_ROWS = (
    *embedding_rows("transformer.wte.weight"),
    Row(copy("transformer.position_embedding.weight", "transformer.wpe.weight", stage=Stage.FIRST)),
    *norm_rows(TARGET + "input_layernorm", _H + "ln_1"),
    *norm_rows(TARGET + "post_layernorm", _H + "ln_2"),
)
_LAST_ROWS = (
    *norm_rows("transformer.ln_f", "transformer.ln_f", stage=Stage.LAST),
    *lm_head_rows("lm_head.weight", embedding="transformer.wte.weight"),
)
_GPT_READS = (*GPT_KEYS.reads, "add_cross_attention", "scale_attn_weights")
# Of a head for classes, and of how exactly scores are computed.
_GPT2_INERT = (
    "reorder_and_upcast_attn",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
)
_BIGCODE_INERT = ("attention_softmax_in_fp32", "scale_attention_softmax_in_fp32")
_MASKS = Dropped(r"transformer\.h\.\d+\.attn\.(masked_)?bias", "the causal mask, not a weight")

GPT2 = Family(
    name="gpt2",
    architectures=("GPT2LMHeadModel",),
    keys=ConfigKeys("gpt2", (*_GPT_READS, "scale_attn_by_inverse_layer_idx"), inert=_GPT2_INERT),
    read_spec=_read_gpt2,
    sizes=_sizes,
    source_tensors=(
        *_OUTER_TENSORS,
        # Conv1D: [in, out].
        SourceTensor(_H + "attn.c_attn.weight", ("hidden", "qkv")),
        SourceTensor(_H + "attn.c_proj.weight", ("hidden", "hidden")),
        SourceTensor(_H + "mlp.c_fc.weight", ("hidden", "mlp")),
        SourceTensor(_H + "mlp.c_proj.weight", ("mlp", "hidden")),
    ),
    rows=(
        *_FIRST_ROWS,
        Row(fused_qkv("weight", source=_H + "attn.c_attn", layout=STACKED, transform="transpose")),
        Row(fused_qkv("bias", source=_H + "attn.c_attn", layout=STACKED)),
        *linear_rows(
            TARGET + "attention.dense",
            _H + "attn.c_proj",
            Cut.QUERY_COLUMNS,
            transform="transpose",
        ),
        *linear_rows(TARGET + "mlp.fc", _H + "mlp.c_fc", Cut.MLP_ROWS, transform="transpose"),
        *linear_rows(TARGET + "mlp.proj", _H + "mlp.c_proj", Cut.MLP_COLUMNS, transform="transpose"),
        *_LAST_ROWS,
    ),
    config_fields=with_fields(GPT_FIELDS, constant("gpt_variant", "gpt2")),
    dropped=(_MASKS,),
    optional_prefix="transformer.",
)

BIGCODE = replace(
    GPT2,
    name="gpt_bigcode",
    architectures=("GPTBigCodeForCausalLM",),
    keys=ConfigKeys("gpt_bigcode", (*_GPT_READS, "multi_query"), inert=_BIGCODE_INERT),
    read_spec=_read_bigcode,
    source_tensors=(
        *_OUTER_TENSORS,
        SourceTensor(_H + "attn.c_attn.weight", ("qkv", "hidden")),
        SourceTensor(_H + "attn.c_proj.weight", ("hidden", "hidden")),
        SourceTensor(_H + "mlp.c_fc.weight", ("mlp", "hidden")),
        SourceTensor(_H + "mlp.c_proj.weight", ("hidden", "mlp")),
    ),
    rows=(
        *_FIRST_ROWS,
        # With one key for all heads q, k, v are stacked; else each head has its three together.
        Row(fused_qkv("weight", source=_H + "attn.c_attn", layout=STACKED), when=_is_multi_query),
        Row(fused_qkv("bias", source=_H + "attn.c_attn", layout=STACKED), when=_is_multi_query),
        Row(fused_qkv("weight", source=_H + "attn.c_attn", layout=GROUPED), when=_has_own_keys),
        Row(fused_qkv("bias", source=_H + "attn.c_attn", layout=GROUPED), when=_has_own_keys),
        *linear_rows(TARGET + "attention.dense", _H + "attn.c_proj", Cut.QUERY_COLUMNS),
        *linear_rows(TARGET + "mlp.fc", _H + "mlp.c_fc", Cut.MLP_ROWS),
        *linear_rows(TARGET + "mlp.proj", _H + "mlp.c_proj", Cut.MLP_COLUMNS),
        *_LAST_ROWS,
    ),
    config_fields=with_fields(GPT_FIELDS, constant("gpt_variant", "starcoder")),
)

_LAYER = "model.layers.{layer}."
_ATTENTION = _LAYER + "self_attn."
_EMBEDDING = "model.embed_tokens.weight"


def _read_starcoder2(config: ConfigReader) -> ModelSpec:
    bias = config.flag("use_bias")
    model = read_llama_like(
        config,
        bias=bias,
        output_bias=bias,
        sliding_window=read_window(config),
        activations=("gelu_pytorch_tanh", "gelu", "gelu_new"),
        epsilon_key="norm_epsilon",
    )
    norm = NormSpec(epsilon=model.norm.epsilon, kind="layernorm", bias=True)
    mlp = model.mlp.model_copy(update={"gated": False, "bias": bias})
    return config.checked(model.model_copy(update={"norm": norm, "mlp": mlp}))


def _read_nemotron(config: ConfigReader) -> ModelSpec:
    config.require("mlp_bias", expected=(False,), why="biases of the MLP are not supported")
    bias = config.flag("attention_bias")
    model = read_llama_like(
        config,
        bias=bias,
        output_bias=bias,
        activations=("relu2",),
        epsilon_key="norm_eps",
        partial_rotary=True,
    )
    norm = NormSpec(epsilon=model.norm.epsilon, kind="layernorm", bias=True)
    mlp = model.mlp.model_copy(update={"gated": False, "activation": "squared-relu"})
    return config.checked(model.model_copy(update={"norm": norm, "mlp": mlp}))


def _modern_tensors(fc: str, proj: str) -> tuple[SourceTensor, ...]:
    """Layer norms and a plain MLP under Llama's names."""
    norms = (_LAYER + "input_layernorm", _LAYER + "post_attention_layernorm", "model.norm")
    sizes = {"q_proj": "query", "k_proj": "kv", "v_proj": "kv"}
    return (
        SourceTensor(_EMBEDDING, ("vocab", "hidden")),
        *(SourceTensor(f"{norm}.{suffix}", ("hidden",)) for norm in norms for suffix in ("weight", "bias")),
        *(SourceTensor(f"{_ATTENTION}{name}.weight", (rows, "hidden")) for name, rows in sizes.items()),
        *(SourceTensor(f"{_ATTENTION}{name}.bias", (rows,), when=if_biased) for name, rows in sizes.items()),
        SourceTensor(_ATTENTION + "o_proj.weight", ("hidden", "query")),
        SourceTensor(_ATTENTION + "o_proj.bias", ("hidden",), when=if_biased),
        SourceTensor(f"{_LAYER}mlp.{fc}.weight", ("mlp", "hidden")),
        SourceTensor(f"{_LAYER}mlp.{fc}.bias", ("mlp",), when=if_mlp_biased),
        SourceTensor(f"{_LAYER}mlp.{proj}.weight", ("hidden", "mlp")),
        SourceTensor(f"{_LAYER}mlp.{proj}.bias", ("hidden",), when=if_mlp_biased),
        SourceTensor("lm_head.weight", ("vocab", "hidden"), when=if_untied),
    )


def _modern_rows(fc: str, proj: str, *, norm: str | None) -> tuple[Row, ...]:
    names = {"query": _ATTENTION + "q_proj", "key": _ATTENTION + "k_proj", "value": _ATTENTION + "v_proj"}
    return (
        *embedding_rows(_EMBEDDING),
        *norm_rows(TARGET + "input_layernorm", _LAYER + "input_layernorm", transform=norm),
        Row(separate_qkv("weight", **names)),
        Row(separate_qkv("bias", **names), when=biased),
        *linear_rows(TARGET + "attention.dense", _ATTENTION + "o_proj", Cut.QUERY_COLUMNS, bias=biased),
        *norm_rows(TARGET + "post_layernorm", _LAYER + "post_attention_layernorm", transform=norm),
        Row(cut(TARGET + "mlp.fc.weight", f"{_LAYER}mlp.{fc}.weight", Cut.MLP_ROWS)),
        Row(cut(TARGET + "mlp.fc.bias", f"{_LAYER}mlp.{fc}.bias", Cut.MLP_ROWS), when=mlp_biased),
        Row(cut(TARGET + "mlp.proj.weight", f"{_LAYER}mlp.{proj}.weight", Cut.MLP_COLUMNS)),
        Row(copy(TARGET + "mlp.proj.bias", f"{_LAYER}mlp.{proj}.bias"), when=mlp_biased),
        *norm_rows("transformer.ln_f", "model.norm", stage=Stage.LAST, transform=norm),
        *lm_head_rows("lm_head.weight", embedding=_EMBEDDING),
    )


_ROTARY_BUFFERS = Dropped(
    r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq", "recomputed by the runtime from rotary_base"
)

STARCODER2 = Family(
    name="starcoder2",
    architectures=("Starcoder2ForCausalLM",),
    keys=ConfigKeys("starcoder2", llama_reads("sliding_window", "use_bias", epsilon_key="norm_epsilon")),
    read_spec=_read_starcoder2,
    sizes=llama_sizes,
    source_tensors=_modern_tensors("c_fc", "c_proj"),
    rows=_modern_rows("c_fc", "c_proj", norm=None),
    config_fields=with_fields(GPT_FIELDS, constant("gpt_variant", "starcoder2")),
    dropped=(_ROTARY_BUFFERS,),
)

NEMOTRON = replace(
    STARCODER2,
    name="nemotron",
    architectures=("NemotronForCausalLM",),
    keys=ConfigKeys("nemotron", llama_reads("attention_bias", "mlp_bias", epsilon_key="norm_eps")),
    read_spec=_read_nemotron,
    source_tensors=_modern_tensors("up_proj", "down_proj"),
    rows=_modern_rows("up_proj", "down_proj", norm="plus one"),
    config_fields=with_fields(
        GPT_FIELDS,
        constant("gpt_variant", "nemotron"),
        ConfigField("bias", lambda plan, dtype: plan.model.attention.bias),
    ),
)
