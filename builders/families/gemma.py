"""Gemma, Gemma 2 and Gemma 3 (text): norms stored as their distance from one, embeddings scaled, as tables.

Not here: Gemma 3 with images, Gemma 3n.
Source: TensorRT-LLM 1.2, models/gemma/{config,convert,model}.py; transformers 5, models/gemma{,2,3}.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from builders.families.common.base import ConfigField, Row, SourceTensor
from builders.families.common.fields import BASE_FIELDS, QK_NORM, ROTARY_FIELDS, constant, rope, with_fields
from builders.families.common.keys import ConfigKeys
from builders.families.common.reading import ConfigReader
from builders.families.common.restrictions import embedding_by_rows
from builders.families.common.rows import (
    TARGET,
    biased,
    copy,
    cut,
    divided_embedding_rows,
    lm_head_rows,
    output_biased,
    separate_qkv,
)
from builders.families.common.windows import with_windows
from builders.families.llama import LLAMA, MLP_ROWS, llama_reads, read_llama_like
from tpforge.model import ModelSpec, RopeSpec
from tpforge.shards.sharding import Cut, Rule, Stage

_LAYER = "model.layers.{layer}."
_ATTENTION = _LAYER + "self_attn."
_EMBEDDING = "model.embed_tokens.weight"
_ACTIVATION = "gelu_pytorch_tanh"


def _read_any(config: ConfigReader, *, activation_key: str, qk_norm: bool = False) -> ModelSpec:
    config.require("use_bidirectional_attention", expected=(False,), why="only causal models are converted")
    bias = config.flag("attention_bias")
    return read_llama_like(
        config,
        bias=bias,
        output_bias=bias,
        qk_norm=qk_norm,
        activations=(_ACTIVATION,),
        activation_key=activation_key,
    )


def _read_gemma(config: ConfigReader) -> ModelSpec:
    config.require("hidden_activation", expected=(_ACTIVATION,), why=f"expected {_ACTIVATION}")
    # "gelu" is a mistake of the first checkpoints: the model has always used the other one.
    is_mistake = config.value("hidden_act") == "gelu"
    given = config.replaced(hidden_act=_ACTIVATION) if is_mistake else config
    return config.checked(_read_any(given, activation_key="hidden_act"))


def _read_gemma2(config: ConfigReader) -> ModelSpec:
    model = _read_any(config, activation_key="hidden_activation")
    return config.checked(_softened(config, model, full_every=2))


def _read_gemma3(config: ConfigReader) -> ModelSpec:
    full, local_base = _two_ropes(config)
    inner = config.replaced(rope_parameters=full, rope_theta=None, rope_scaling=None)
    model = _read_any(inner, activation_key="hidden_activation", qk_norm=True)
    every = config.integer("sliding_window_pattern", default=6)
    model = _softened(config, model, full_every=every)
    assert model.rope is not None
    rope = model.rope.model_copy(update={"local_base": local_base})
    return config.checked(model.model_copy(update={"rope": rope}))


def _two_ropes(config: ConfigReader) -> tuple[dict[str, Any], float]:
    """The rope of the full layers, and the base of those with a window.

    Transformers 5 has a dictionary for each kind of layer, older configs rope_local_base_freq.
    """
    ropes = config.within("rope_parameters")
    full, local = ropes.within("full_attention"), ropes.within("sliding_attention")
    unknown = sorted(set(ropes.values) - {"full_attention", "sliding_attention"})
    if unknown:
        config.problem(f"rope_parameters: found {unknown[0]!r}, expected a rope for each kind of layer")
    older = config.within("rope_scaling")
    local.require("rope_type", expected=("default",), why="the layers with a window have an unscaled rope")
    found = {"rope_type": "default"} | older.values | full.values
    base = config.number("rope_theta", default=config.default_of("rope_theta"))
    local_base = config.number("rope_local_base_freq", default=config.default_of("rope_local_base_freq"))
    return {"rope_theta": base} | found, local.number("rope_theta", default=local_base)


def _softened(config: ConfigReader, model: ModelSpec, *, full_every: int) -> ModelSpec:
    """With soft caps, the scale of the scores, and windows on all layers but every `full_every`-th."""
    change = {
        "scale": config.number("query_pre_attn_scalar") ** -0.5,
        "logit_softcap": _cap(config, "attn_logit_softcapping"),
    }
    model = model.model_copy(update={"attention": model.attention.model_copy(update=change)})
    alternate = tuple((layer + 1) % full_every != 0 for layer in range(model.num_layers))
    model = with_windows(config, model, otherwise=alternate)
    cap = _cap(config, "final_logit_softcapping")
    return model.model_copy(update={"logit_softcap": cap})


def _cap(config: ConfigReader, key: str) -> float | None:
    return config.number(key) if config.has(key) else None


def _norm(target: str, source: str, stage: Stage = Stage.LAYER) -> Row:
    return Row(copy(target, source, stage=stage, transform="plus one"))


def _qkv(suffix: str) -> Rule:
    return separate_qkv(
        suffix, query=_ATTENTION + "q_proj", key=_ATTENTION + "k_proj", value=_ATTENTION + "v_proj"
    )


_ROWS = (
    *divided_embedding_rows(_EMBEDDING),
    _norm(TARGET + "input_layernorm.weight", _LAYER + "input_layernorm.weight"),
    Row(_qkv("weight")),
    Row(_qkv("bias"), when=biased),
    Row(cut(TARGET + "attention.dense.weight", _ATTENTION + "o_proj.weight", Cut.QUERY_COLUMNS)),
    Row(copy(TARGET + "attention.dense.bias", _ATTENTION + "o_proj.bias"), when=output_biased),
    _norm(TARGET + "post_layernorm.weight", _LAYER + "post_attention_layernorm.weight"),
    *MLP_ROWS,
    _norm("transformer.ln_f.weight", "model.norm.weight", Stage.LAST),
    *lm_head_rows("lm_head.weight", embedding=_EMBEDDING),
)
_FEEDFORWARD = ("pre_feedforward_layernorm", "post_feedforward_layernorm")
_GEMMA_FIELDS = (
    *with_fields(
        BASE_FIELDS,
        ConfigField("use_parallel_embedding", lambda plan, dtype: plan.mapping.tp_size > 1),
        constant("embedding_sharding_dim", 0),
    ),
    *ROTARY_FIELDS,
    ConfigField("attn_bias", lambda plan, dtype: plan.model.attention.bias),
    constant("mlp_bias", False),
    constant("inter_layernorms", False),
)
_GEMMA2_FIELDS = (
    *with_fields(_GEMMA_FIELDS, constant("inter_layernorms", True)),
    ConfigField(
        "query_pre_attn_scalar", lambda plan, dtype: round((plan.model.attention.scale or 1.0) ** -2, 6)
    ),
    ConfigField("final_logit_softcapping", lambda plan, dtype: plan.model.logit_softcap),
    ConfigField("attn_logit_softcapping", lambda plan, dtype: plan.model.attention.logit_softcap),
)


def _local_base(model: ModelSpec) -> float:
    found: RopeSpec = rope(model)
    return found.base if found.local_base is None else found.local_base


_GEMMA_READS = llama_reads("attention_bias", "hidden_activation", "use_bidirectional_attention")
_GEMMA2_READS = llama_reads(
    "attention_bias",
    "use_bidirectional_attention",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "layer_types",
    "query_pre_attn_scalar",
    "sliding_window",
    activation_key="hidden_activation",
)

GEMMA = replace(
    LLAMA,
    name="gemma",
    architectures=("GemmaForCausalLM",),
    keys=ConfigKeys("gemma", _GEMMA_READS),
    read_spec=_read_gemma,
    rows=_ROWS,
    config_fields=_GEMMA_FIELDS,
    restrictions=(embedding_by_rows,),
)
GEMMA2 = replace(
    GEMMA,
    name="gemma2",
    architectures=("Gemma2ForCausalLM",),
    keys=ConfigKeys("gemma2", _GEMMA2_READS, inert=("hidden_act",)),
    read_spec=_read_gemma2,
    source_tensors=(
        *LLAMA.source_tensors,
        *(SourceTensor(f"{_LAYER}{name}.weight", ("hidden",)) for name in _FEEDFORWARD),
    ),
    rows=(*_ROWS, *(_norm(f"{TARGET}{name}.weight", f"{_LAYER}{name}.weight") for name in _FEEDFORWARD)),
    config_fields=_GEMMA2_FIELDS,
)
GEMMA3 = replace(
    GEMMA2,
    name="gemma3",
    architectures=("Gemma3ForCausalLM",),
    keys=ConfigKeys(
        "gemma3_text",
        (*_GEMMA2_READS, "rope_local_base_freq", "sliding_window_pattern"),
        inert=("hidden_act",),
    ),
    read_spec=_read_gemma3,
    source_tensors=(
        *GEMMA2.source_tensors,
        SourceTensor(_ATTENTION + "q_norm.weight", ("head",)),
        SourceTensor(_ATTENTION + "k_norm.weight", ("head",)),
    ),
    rows=(
        *GEMMA2.rows,
        _norm(TARGET + "attention.q_layernorm.weight", _ATTENTION + "q_norm.weight"),
        _norm(TARGET + "attention.k_layernorm.weight", _ATTENTION + "k_norm.weight"),
    ),
    config_fields=with_fields(
        _GEMMA2_FIELDS,
        QK_NORM,
        ConfigField("rope_local_base_freq", lambda plan, dtype: _local_base(plan.model)),
        ConfigField("sliding_window", lambda plan, dtype: plan.model.attention.sliding_window),
    ),
)
