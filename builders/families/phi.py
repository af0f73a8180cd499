"""Phi-2, Phi-3 to Phi-4 (fused qkv and gate_up) and Phi-3.5-MoE: tables.

Not here: Phi-3 small (block-sparse attention), Phi with images.
Source: TensorRT-LLM 1.2, models/phi and models/phi3; transformers 5, models/phi, phi3, phimoe.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from builders.families.common.base import ConfigField, Dropped, Family, Row, SourceTensor
from builders.families.common.fields import (
    BASE_FIELDS,
    EXPERT_SIZE,
    SWIGLU,
    constant,
    moe_field,
    rope,
    with_fields,
)
from builders.families.common.keys import ConfigKeys
from builders.families.common.reading import ConfigReader
from builders.families.common.restrictions import heads_as_they_are
from builders.families.common.rows import (
    STACKED,
    TARGET,
    biased,
    copy,
    cut,
    embedding_rows,
    expert_rows,
    fused_gate_up_row,
    fused_qkv,
    linear_rows,
    lm_head_rows,
    norm_rows,
    separate_qkv,
)
from builders.families.common.tensors import if_biased, linear_tensors, lm_head_tensor, norm_tensors
from builders.families.common.windows import read_window
from builders.families.llama import llama_reads, llama_sizes, read_llama_like
from tpforge.dtypes import DType
from tpforge.model import ModelSpec, MoeSpec, NormSpec
from tpforge.shards.sharding import Cut, Part, Rule, ShardPlan, Stage

_SAME_SCALE = 1e-5
"""Between two factors on cosine and sine that are the same but for the digits that were written."""
_LAYER = "model.layers.{layer}."
_ATTENTION = _LAYER + "self_attn."
_EMBEDDING = "model.embed_tokens.weight"
_QKV = {"query": _ATTENTION + "q_proj", "key": _ATTENTION + "k_proj", "value": _ATTENTION + "v_proj"}
_INV_FREQ = Dropped(
    r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.(original_)?inv_freq",
    "recomputed by the runtime from rotary_base",
)


_ROTARY_SHARE = ConfigField("rotary_pct", lambda plan, dtype: rope(plan.model).partial_factor)
_HEAD_BIAS = Rule("lm_head.bias", (Part("lm_head.bias", Cut.VOCAB_ROWS),), Stage.LAST)


def _read_phi2(config: ConfigReader) -> ModelSpec:
    config.require("qk_layernorm", expected=(False,), why="the format has no norms of queries and keys")
    # TensorRT-LLM makes all norms with this epsilon, whatever config.json says.
    config.require("layer_norm_eps", expected=(1e-5,), why="TensorRT-LLM's Phi-2 has 1e-5")
    model = read_llama_like(
        config,
        bias=True,
        output_bias=True,
        activations=("gelu_new", "gelu", "gelu_pytorch_tanh"),
        epsilon_key="layer_norm_eps",
        rope_types=(),
        partial_rotary=True,
    )
    changes = {
        "mlp": model.mlp.model_copy(update={"gated": False, "bias": True}),
        "norm": NormSpec(epsilon=model.norm.epsilon, kind="layernorm", bias=True, count=1),
        "parallel_residual": True,
        "lm_head_bias": True,
    }
    return config.checked(model.model_copy(update=changes))


PHI2 = Family(
    name="phi2",
    architectures=("PhiForCausalLM",),
    keys=ConfigKeys("phi", llama_reads("qk_layernorm", epsilon_key="layer_norm_eps")),
    read_spec=_read_phi2,
    sizes=llama_sizes,
    source_tensors=(
        SourceTensor(_EMBEDDING, ("vocab", "hidden")),
        *norm_tensors(_LAYER + "input_layernorm"),
        *norm_tensors("model.final_layernorm"),
        *linear_tensors(_ATTENTION + "q_proj", "query", "hidden"),
        *linear_tensors(_ATTENTION + "k_proj", "kv", "hidden"),
        *linear_tensors(_ATTENTION + "v_proj", "kv", "hidden"),
        *linear_tensors(_ATTENTION + "dense", "hidden", "query"),
        *linear_tensors(_LAYER + "mlp.fc1", "mlp", "hidden"),
        *linear_tensors(_LAYER + "mlp.fc2", "hidden", "mlp"),
        lm_head_tensor(),
        SourceTensor("lm_head.bias", ("vocab",)),
    ),
    rows=(
        *embedding_rows(_EMBEDDING),
        *norm_rows(TARGET + "input_layernorm", _LAYER + "input_layernorm"),
        Row(separate_qkv("weight", **_QKV)),
        Row(separate_qkv("bias", **_QKV)),
        *linear_rows(TARGET + "attention.dense", _ATTENTION + "dense", Cut.QUERY_COLUMNS),
        *linear_rows(TARGET + "mlp.fc", _LAYER + "mlp.fc1", Cut.MLP_ROWS),
        *linear_rows(TARGET + "mlp.proj", _LAYER + "mlp.fc2", Cut.MLP_COLUMNS),
        *norm_rows("transformer.ln_f", "model.final_layernorm", stage=Stage.LAST),
        *lm_head_rows("lm_head.weight", embedding=_EMBEDDING),
        Row(_HEAD_BIAS),
    ),
    config_fields=(
        *BASE_FIELDS,
        ConfigField("rotary_base", lambda plan, dtype: rope(plan.model).base),
        ConfigField("rotary_scaling", lambda plan, dtype: rope(plan.model).scaling),
        _ROTARY_SHARE,
    ),
    dropped=(_INV_FREQ,),
    restrictions=(heads_as_they_are,),
)


def _long(plan: ShardPlan) -> dict[str, Any] | None:
    """The rope scaling with a factor for each frequency, when the model has one."""
    scaling = rope(plan.model).scaling
    return scaling if scaling is not None and "long_factor" in scaling else None


def _is_long(plan: ShardPlan) -> bool:
    return _long(plan) is not None


def _long_value(key: str, name: str) -> ConfigField:
    """A key that must not be there otherwise: TensorRT-LLM takes its presence for a long rope."""
    return ConfigField(key, lambda plan, dtype: (_long(plan) or {}).get(name), when=_is_long)


def _original_length(plan: ShardPlan, dtype: DType) -> int:
    scaling = _long(plan) or {}
    return int(scaling.get("original_max_position_embeddings") or plan.model.max_position_embeddings)


_PHI3_FIELDS = (
    *with_fields(
        BASE_FIELDS,
        SWIGLU,
        ConfigField(
            "position_embedding_type", lambda plan, dtype: "long_rope" if _long(plan) else "rope_gpt_neox"
        ),
    ),
    ConfigField("rotary_base", lambda plan, dtype: rope(plan.model).base),
    ConfigField("rotary_scaling", lambda plan, dtype: None if _long(plan) else rope(plan.model).scaling),
    _ROTARY_SHARE,
    ConfigField("original_max_position_embeddings", _original_length, when=_is_long),
)
_LONG_FIELDS = (
    _long_value("longrope_scaling_short_factors", "short_factor"),
    _long_value("longrope_scaling_long_factors", "long_factor"),
)
_LONG_SCALES = (
    _long_value("longrope_short_mscale", "short_mscale"),
    _long_value("longrope_long_mscale", "long_mscale"),
)


def _read_phi3_like(config: ConfigReader, *, scales: tuple[str, ...] = (), **options: Any) -> ModelSpec:
    """`scales` are the keys that must state the factors on cosine and sine, where lengths do not give one."""
    model = read_llama_like(
        config,
        sliding_window=read_window(config),
        rope_types=("longrope", "su"),
        also_scaled_by=scales,
        **options,
    )
    assert model.rope is not None
    if model.rope.scaling is None:
        return model
    scaling = _factors(config, model)
    for key in scales:
        if scaling.get(key) is None:
            config.problem(f"rope_scaling: {key}: missing, and the class of this model looks for it")
    if not scales:
        _check_scale(config, scaling, max_length=model.max_position_embeddings)
    return model.model_copy(update={"rope": model.rope.model_copy(update={"scaling": scaling})})


def _factors(config: ConfigReader, model: ModelSpec) -> dict[str, Any]:
    """The long rope's dictionary, checked, with the original length that stands beside it in the config."""
    assert model.rope is not None and model.rope.scaling is not None
    scaling = dict(model.rope.scaling)
    pairs = int(model.attention.head_size * model.rope.partial_factor) // 2
    for key in ("short_factor", "long_factor"):
        values = scaling.get(key)
        numbers = isinstance(values, list) and all(
            isinstance(one, int | float) and not isinstance(one, bool) and one > 0 for one in values
        )
        if not numbers or len(values or ()) != pairs:
            config.problem(f"rope_scaling: {key}: expected {pairs} numbers above 0, one for each pair")
    # What stands beside rope_scaling, if only as the class's default, is what transformers takes.
    within = scaling.get("original_max_position_embeddings", model.max_position_embeddings)
    length = config.integer("original_max_position_embeddings", default=within)
    if length == 1:
        config.problem("original_max_position_embeddings: found 1, and longrope divides by its logarithm")
    if scaling.get("original_max_position_embeddings", length) != length:
        config.problem(
            f"original_max_position_embeddings: found {within} in rope_scaling, but {length} beside it, "
            "where transformers looks; state it there"
        )
    return scaling | {"original_max_position_embeddings": length}


def _check_scale(config: ConfigReader, scaling: dict[str, Any], *, max_length: int) -> None:
    """Note a stated factor on cosine and sine that is not the one that TensorRT-LLM has of the lengths.

    Source: transformers 5.23, modeling_rope_utils.py (attention_factor, else by factor, else by the lengths);
    TensorRT-LLM 1.2, functional.py (by the lengths, whatever is stated).
    """
    original = scaling["original_max_position_embeddings"]
    stretch = max_length / original
    of_lengths = _long_scale(stretch, original)
    for key in ("attention_factor", "factor"):
        value = scaling.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            # Absent, or noted as no number.
            continue
        stated = value if key == "attention_factor" else _long_scale(value, original)
        if not math.isclose(stated, of_lengths, rel_tol=_SAME_SCALE):
            config.problem(
                f"rope_scaling: {key}: found {value!r}, with which transformers scales cosine and sine by "
                f"{stated:g}; TensorRT-LLM scales them by {of_lengths:g}, whatever is stated, since "
                f"max_position_embeddings is {max_length} and original_max_position_embeddings {original}"
            )
        return


def _long_scale(stretch: float, original: int) -> float:
    """The factor on cosine and sine of a long rope that is `stretch` times as long as it was trained."""
    return math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 and original > 1 else 1.0


def _read_phi3(config: ConfigReader) -> ModelSpec:
    config.require("attention_bias", expected=(False,), why="TensorRT-LLM's Phi-3 has no biases")
    return config.checked(_read_phi3_like(config, partial_rotary=True))


_PHI3_READS = llama_reads("original_max_position_embeddings", "sliding_window")
_GATE_UP = _LAYER + "mlp.gate_up_proj.weight"

PHI3 = Family(
    name="phi3",
    architectures=("Phi3ForCausalLM",),
    keys=ConfigKeys("phi3", (*_PHI3_READS, "attention_bias")),
    read_spec=_read_phi3,
    sizes=llama_sizes,
    source_tensors=(
        SourceTensor(_EMBEDDING, ("vocab", "hidden")),
        SourceTensor(_LAYER + "input_layernorm.weight", ("hidden",)),
        SourceTensor(_ATTENTION + "qkv_proj.weight", ("qkv", "hidden")),
        SourceTensor(_ATTENTION + "o_proj.weight", ("hidden", "query")),
        SourceTensor(_LAYER + "post_attention_layernorm.weight", ("hidden",)),
        SourceTensor(_GATE_UP, ("gate_up", "hidden")),
        SourceTensor(_LAYER + "mlp.down_proj.weight", ("hidden", "mlp")),
        SourceTensor("model.norm.weight", ("hidden",)),
        lm_head_tensor(),
    ),
    rows=(
        *embedding_rows(_EMBEDDING),
        Row(copy(TARGET + "input_layernorm.weight", _LAYER + "input_layernorm.weight")),
        Row(fused_qkv("weight", source=_ATTENTION + "qkv_proj", layout=STACKED)),
        Row(cut(TARGET + "attention.dense.weight", _ATTENTION + "o_proj.weight", Cut.QUERY_COLUMNS)),
        Row(copy(TARGET + "post_layernorm.weight", _LAYER + "post_attention_layernorm.weight")),
        fused_gate_up_row(_GATE_UP),
        Row(cut(TARGET + "mlp.proj.weight", _LAYER + "mlp.down_proj.weight", Cut.MLP_COLUMNS)),
        Row(copy("transformer.ln_f.weight", "model.norm.weight", stage=Stage.LAST)),
        *lm_head_rows("lm_head.weight", embedding=_EMBEDDING),
    ),
    config_fields=(*_PHI3_FIELDS, *_LONG_FIELDS),
    dropped=(_INV_FREQ,),
    restrictions=(heads_as_they_are,),
)

_MOE = _LAYER + "block_sparse_moe."
_EXPERT = _MOE + "experts.{expert}."


def _read_phimoe(config: ConfigReader) -> ModelSpec:
    for key in ("attention_bias", "lm_head_bias"):
        if not config.flag(key):
            config.problem(f"{key}: expected true: TensorRT-LLM's Phi-3.5-MoE has these biases")
    config.require(
        "router_jitter_noise", expected=(0.01,), why="only 0.01, that of the published model, is proven"
    )
    model = _read_phi3_like(config, bias=True, output_bias=True, scales=("long_mscale", "short_mscale"))
    num_experts = config.integer("num_local_experts")
    config.require("num_experts_per_tok", expected=(2,), why="sparse mixer chooses two experts")
    changes = {
        "moe": MoeSpec(
            num_experts=num_experts,
            top_k=2,
            intermediate_size=model.mlp.intermediate_size,
            scoring="sparsemixer",
            normalize=False,
        ),
        "norm": model.norm.model_copy(update={"kind": "layernorm", "bias": True}),
        "lm_head_bias": True,
    }
    return config.checked(model.model_copy(update=changes))


PHIMOE = replace(
    PHI3,
    name="phimoe",
    architectures=("PhiMoEForCausalLM", "PhimoeForCausalLM"),
    keys=ConfigKeys(
        "phimoe",
        (
            *_PHI3_READS,
            "attention_bias",
            "lm_head_bias",
            "num_experts_per_tok",
            "num_local_experts",
            "router_jitter_noise",
        ),
        inert=("input_jitter_noise",),
    ),
    read_spec=_read_phimoe,
    sizes=llama_sizes,
    source_tensors=(
        SourceTensor(_EMBEDDING, ("vocab", "hidden")),
        *norm_tensors(_LAYER + "input_layernorm"),
        *norm_tensors(_LAYER + "post_attention_layernorm"),
        *norm_tensors("model.norm"),
        *linear_tensors(_ATTENTION + "q_proj", "query", "hidden", bias=if_biased),
        *linear_tensors(_ATTENTION + "k_proj", "kv", "hidden", bias=if_biased),
        *linear_tensors(_ATTENTION + "v_proj", "kv", "hidden", bias=if_biased),
        *linear_tensors(_ATTENTION + "o_proj", "hidden", "query", bias=if_biased),
        SourceTensor(_MOE + "gate.weight", ("experts", "hidden")),
        SourceTensor(_EXPERT + "w1.weight", ("expert", "hidden")),
        SourceTensor(_EXPERT + "w2.weight", ("hidden", "expert")),
        SourceTensor(_EXPERT + "w3.weight", ("expert", "hidden")),
        lm_head_tensor(),
        SourceTensor("lm_head.bias", ("vocab",), when=lambda model: model.lm_head_bias),
    ),
    rows=(
        *embedding_rows(_EMBEDDING),
        *norm_rows(TARGET + "input_layernorm", _LAYER + "input_layernorm"),
        Row(separate_qkv("weight", **_QKV)),
        Row(separate_qkv("bias", **_QKV), when=biased),
        *linear_rows(TARGET + "attention.dense", _ATTENTION + "o_proj", Cut.QUERY_COLUMNS, bias=biased),
        *norm_rows(TARGET + "post_layernorm", _LAYER + "post_attention_layernorm"),
        *expert_rows(
            router=_MOE + "gate.weight",
            gate=_EXPERT + "w1.weight",
            up=_EXPERT + "w3.weight",
            down=_EXPERT + "w2.weight",
        ),
        *norm_rows("transformer.ln_f", "model.norm", stage=Stage.LAST),
        *lm_head_rows("lm_head.weight", embedding=_EMBEDDING),
        Row(_HEAD_BIAS, when=lambda plan: plan.model.lm_head_bias),
    ),
    config_fields=(
        # The one name by which TensorRT-LLM tells it from Phi-3; transformers 5 saves another.
        *with_fields(_PHI3_FIELDS, EXPERT_SIZE, constant("architecture", "PhiMoEForCausalLM")),
        *_LONG_FIELDS,
        *_LONG_SCALES,
        moe_field(),
        constant("attention_bias", True),
    ),
)
