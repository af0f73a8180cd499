"""Qwen 1, 2 and 3 and their mixtures of experts: tables.

Not here: Qwen-VL, Qwen3-Next.
Source: TensorRT-LLM 1.2, models/qwen/{config,convert,model}.py; transformers 5, models/qwen2, qwen2_moe,
qwen3, qwen3_moe; the remote code of Qwen-7B for Qwen 1.
"""

from __future__ import annotations

from dataclasses import replace

from builders.families.common.base import ConfigField, Dropped, Family, Row, SourceTensor
from builders.families.common.fields import (
    BASE_FIELDS,
    DENSE_MOE,
    QK_NORM,
    SWIGLU,
    constant,
    moe_field,
    rope,
    with_fields,
)
from builders.families.common.keys import ConfigKeys
from builders.families.common.reading import ConfigReader
from builders.families.common.rows import (
    STACKED,
    TARGET,
    copy,
    cut,
    embedding_rows,
    expert_rows,
    fused_qkv,
    gated_mlp_rows,
    lm_head_rows,
)
from builders.families.common.windows import read_window, with_windows
from builders.families.llama import (
    ATTENTION_ROWS,
    ATTENTION_TENSORS,
    FIRST_ROWS,
    LAST_ROWS,
    LLAMA,
    MAX_LAYERS,
    OUTER_TENSORS,
    llama_reads,
    llama_sizes,
    read_llama_like,
)
from tpforge.model import AttentionSpec, MlpSpec, ModelSpec, MoeSpec, NormSpec, RopeSpec
from tpforge.shards.sharding import Cut, Part, Rule, Stage

_LAYER = "model.layers.{layer}."
_MLP = _LAYER + "mlp."
_EXPERT = _MLP + "experts.{expert}."

_QWEN_FIELDS = (
    *BASE_FIELDS,
    constant("mlp_bias", False),
    ConfigField("attn_bias", lambda plan, dtype: plan.model.attention.bias),
    ConfigField("rotary_base", lambda plan, dtype: rope(plan.model).base),
    ConfigField("rotary_scaling", lambda plan, dtype: rope(plan.model).scaling),
    constant("disable_weight_only_quant_plugin", False),
    constant("use_logn_attn", False),
    constant("moe", DENSE_MOE | {"normalization_mode": 0}),
    constant("num_labels", 1),
    constant("seq_length", 8192),
    constant("moe_intermediate_size", 0),
    constant("moe_shared_expert_intermediate_size", 0),
)


def _fields(qwen_type: str, *changes: ConfigField) -> tuple[ConfigField, ...]:
    return with_fields(_QWEN_FIELDS, constant("qwen_type", qwen_type), *changes)


_WINDOW_READS = ("layer_types", "max_window_layers", "sliding_window", "use_sliding_window")


def _windowed(config: ConfigReader, model: ModelSpec) -> ModelSpec:
    """With the sliding windows of layer_types or of the upper layers; most checkpoints switch them off."""
    is_used = config.flag("use_sliding_window") and config.has("sliding_window")
    first = config.integer("max_window_layers", minimum=0)
    upper = tuple(is_used and layer >= first for layer in range(model.num_layers))
    found = with_windows(config, model, otherwise=upper)
    if found.attention.sliding_layers is not None and not is_used:
        config.problem(
            "layer_types: has sliding_attention, but use_sliding_window or sliding_window says that there is "
            "no window; one is wrong"
        )
    return found


def _windowed_everywhere(config: ConfigReader) -> int | None:
    """The window of all layers of Qwen 3's mixtures, whose class knows no other division."""
    if not config.flag("use_sliding_window"):
        return None
    config.require(
        "max_window_layers",
        expected=(0,),
        why="transformers' Qwen3MoeConfig has no such key, and a window on every layer; delete one of "
        "max_window_layers and use_sliding_window",
    )
    return read_window(config)


def _read_qwen2(config: ConfigReader) -> ModelSpec:
    return config.checked(_windowed(config, read_llama_like(config, bias=True)))


def _read_qwen3(config: ConfigReader) -> ModelSpec:
    _refuse_bias(config)
    return config.checked(_windowed(config, read_llama_like(config, qk_norm=True)))


def _refuse_bias(config: ConfigReader) -> None:
    config.require(
        "attention_bias", expected=(False,), why="TensorRT-LLM's Qwen3 has no biases in its attention"
    )


def _read_qwen2_moe(config: ConfigReader) -> ModelSpec:
    model = _windowed(config, read_llama_like(config, bias=config.flag("qkv_bias")))
    shared = config.integer("shared_expert_intermediate_size")
    return config.checked(_with_experts(config, model, shared=shared, count="num_experts"))


def _read_qwen3_moe(config: ConfigReader) -> ModelSpec:
    _refuse_bias(config)
    model = read_llama_like(config, qk_norm=True, sliding_window=_windowed_everywhere(config))
    return config.checked(_with_experts(config, model, shared=0, count="num_local_experts"))


_MOE_READS = (
    "decoder_sparse_step",
    "mlp_only_layers",
    "moe_intermediate_size",
    "norm_topk_prob",
    "num_experts_per_tok",
)


def _with_experts(config: ConfigReader, model: ModelSpec, *, shared: int, count: str) -> ModelSpec:
    for key, every_layer in (("decoder_sparse_step", 1), ("mlp_only_layers", [])):
        config.require(
            key, expected=(every_layer,), why="layers without experts among those with them are not supported"
        )
    num_experts = config.integer(count)
    moe = MoeSpec(
        num_experts=num_experts,
        top_k=config.integer("num_experts_per_tok", maximum=num_experts),
        intermediate_size=config.integer("moe_intermediate_size"),
        shared_intermediate_size=shared,
        shared_gate=shared > 0,
        normalize=config.flag("norm_topk_prob"),
    )
    return model.model_copy(update={"moe": moe})


_NORM_TENSORS = (
    SourceTensor(_LAYER + "self_attn.q_norm.weight", ("head",)),
    SourceTensor(_LAYER + "self_attn.k_norm.weight", ("head",)),
)
_NORM_ROWS = (
    Row(copy(TARGET + "attention.q_layernorm.weight", _LAYER + "self_attn.q_norm.weight")),
    Row(copy(TARGET + "attention.k_layernorm.weight", _LAYER + "self_attn.k_norm.weight")),
)
_EXPERT_TENSORS = (
    SourceTensor(_MLP + "gate.weight", ("experts", "hidden")),
    SourceTensor(_EXPERT + "gate_proj.weight", ("expert", "hidden")),
    SourceTensor(_EXPERT + "up_proj.weight", ("expert", "hidden")),
    SourceTensor(_EXPERT + "down_proj.weight", ("hidden", "expert")),
)
_EXPERT_ROWS = expert_rows(
    router=_MLP + "gate.weight",
    gate=_EXPERT + "gate_proj.weight",
    up=_EXPERT + "up_proj.weight",
    down=_EXPERT + "down_proj.weight",
)
_SHARED = _MLP + "shared_expert."
_SHARED_TENSORS = (
    SourceTensor(_SHARED + "gate_proj.weight", ("shared", "hidden")),
    SourceTensor(_SHARED + "up_proj.weight", ("shared", "hidden")),
    SourceTensor(_SHARED + "down_proj.weight", ("hidden", "shared")),
    SourceTensor(_MLP + "shared_expert_gate.weight", ("one", "hidden")),
)
_SHARED_ROWS = (
    Row(
        Rule(
            TARGET + "mlp.shared_expert.fc.weight",
            (
                Part(_SHARED + "up_proj.weight", Cut.SHARED_ROWS),
                Part(_SHARED + "gate_proj.weight", Cut.SHARED_ROWS),
            ),
        )
    ),
    Row(cut(TARGET + "mlp.shared_expert.proj.weight", _SHARED + "down_proj.weight", Cut.SHARED_COLUMNS)),
    Row(copy(TARGET + "mlp.shared_expert_gate.weight", _MLP + "shared_expert_gate.weight")),
)
_MOE_CHANGES = (
    SWIGLU,
    moe_field(),
    ConfigField("moe_intermediate_size", lambda plan, dtype: plan.padding.expert_size),
    ConfigField("moe_shared_expert_intermediate_size", lambda plan, dtype: plan.padding.shared_size),
    # TensorRT-LLM 1.2
    constant("mlp_only_layers", []),
    constant("decoder_sparse_step", 1),
)

QWEN2 = replace(
    LLAMA,
    name="qwen2",
    architectures=("Qwen2ForCausalLM",),
    keys=ConfigKeys("qwen2", llama_reads(*_WINDOW_READS)),
    read_spec=_read_qwen2,
    config_fields=_fields("qwen2"),
)
QWEN3 = replace(
    QWEN2,
    name="qwen3",
    architectures=("Qwen3ForCausalLM",),
    keys=ConfigKeys("qwen3", llama_reads(*_WINDOW_READS, "attention_bias")),
    read_spec=_read_qwen3,
    source_tensors=(*LLAMA.source_tensors, *_NORM_TENSORS),
    rows=(*LLAMA.rows, *_NORM_ROWS),
    config_fields=_fields("qwen3", QK_NORM),
)
QWEN2_MOE = replace(
    QWEN2,
    name="qwen2_moe",
    architectures=("Qwen2MoeForCausalLM",),
    keys=ConfigKeys(
        "qwen2_moe",
        llama_reads(
            *_WINDOW_READS,
            *_MOE_READS,
            "num_experts",
            "qkv_bias",
            "shared_expert_intermediate_size",
        ),
    ),
    read_spec=_read_qwen2_moe,
    source_tensors=(*OUTER_TENSORS, *ATTENTION_TENSORS, *_EXPERT_TENSORS, *_SHARED_TENSORS),
    rows=(*FIRST_ROWS, *ATTENTION_ROWS, *_EXPERT_ROWS, *_SHARED_ROWS, *LAST_ROWS),
    config_fields=_fields("qwen2_moe", *_MOE_CHANGES),
)
QWEN3_MOE = replace(
    QWEN2,
    name="qwen3_moe",
    architectures=("Qwen3MoeForCausalLM",),
    keys=ConfigKeys(
        "qwen3_moe",
        llama_reads(
            *_MOE_READS,
            "attention_bias",
            "max_window_layers",
            "num_local_experts",
            "sliding_window",
            "use_sliding_window",
        ),
    ),
    read_spec=_read_qwen3_moe,
    source_tensors=(*OUTER_TENSORS, *ATTENTION_TENSORS, *_NORM_TENSORS, *_EXPERT_TENSORS),
    rows=(*FIRST_ROWS, *ATTENTION_ROWS, *_NORM_ROWS, *_EXPERT_ROWS, *LAST_ROWS),
    config_fields=_fields("qwen3_moe", QK_NORM, *_MOE_CHANGES),
)


def _read_qwen(config: ConfigReader) -> ModelSpec:
    config.refuse_quantized()
    hidden_size = config.integer("hidden_size")
    num_heads = config.integer("num_attention_heads")
    vocab_size = config.integer("vocab_size")
    positions = config.integer("seq_length", default=config.integer("max_position_embeddings"))
    both = config.integer("intermediate_size", minimum=2)
    if both % 2:
        config.problem(f"intermediate_size: found {both}, expected an even one (Qwen 1 counts both halves)")
    config.require("no_bias", expected=(True,), why="biases beside those of q, k, v are not supported")
    config.require("scale_attn_weights", expected=(True,), why="the format cannot hold unscaled scores")
    head_size = config.integer("kv_channels")
    # Of ropes an absent key is not filled in; those of Qwen 1 have one spelling.
    rotary_share = config.number("rotary_pct", default=config.default_of("rotary_pct"))
    if rotary_share != 1.0:
        config.problem(f"rotary_pct: found {rotary_share}, expected 1.0")
    return config.checked(
        ModelSpec(
            architecture=config.architecture,
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            num_layers=config.integer("num_hidden_layers", maximum=MAX_LAYERS),
            # Beyond seq_length Qwen 1 changes its rope and its scores (use_dynamic_ntk, use_logn_attn).
            max_position_embeddings=positions,
            dtype=config.dtype(),
            tie_word_embeddings=config.flag("tie_word_embeddings"),
            attention=AttentionSpec(
                num_heads=num_heads, num_kv_heads=num_heads, head_size=head_size, bias=True
            ),
            mlp=MlpSpec(intermediate_size=both // 2, activation="silu"),
            rope=RopeSpec(
                base=config.number("rotary_emb_base", default=config.default_of("rotary_emb_base"))
            ),
            norm=NormSpec(epsilon=config.number("layer_norm_epsilon")),
            special_tokens=config.special_tokens(vocab_size=vocab_size),
        )
    )


_OLD = "transformer.h.{layer}."
_WTE = "transformer.wte.weight"

QWEN = Family(
    name="qwen",
    architectures=("QWenLMHeadModel",),
    keys=ConfigKeys(
        "qwen",
        (
            "hidden_size",
            "intermediate_size",
            "kv_channels",
            "layer_norm_epsilon",
            "max_position_embeddings",
            "no_bias",
            "num_attention_heads",
            "num_hidden_layers",
            "rotary_emb_base",
            "rotary_pct",
            "scale_attn_weights",
            "seq_length",
            "vocab_size",
        ),
        # The first two act beyond seq_length alone, the others say how the same is computed.
        inert=("use_dynamic_ntk", "use_logn_attn", "softmax_in_fp32", "use_cache_kernel", "use_flash_attn"),
    ),
    read_spec=_read_qwen,
    sizes=llama_sizes,
    source_tensors=(
        SourceTensor(_WTE, ("vocab", "hidden")),
        SourceTensor(_OLD + "ln_1.weight", ("hidden",)),
        SourceTensor(_OLD + "attn.c_attn.weight", ("qkv", "hidden")),
        SourceTensor(_OLD + "attn.c_attn.bias", ("qkv",)),
        SourceTensor(_OLD + "attn.c_proj.weight", ("hidden", "query")),
        SourceTensor(_OLD + "ln_2.weight", ("hidden",)),
        SourceTensor(_OLD + "mlp.w1.weight", ("mlp", "hidden")),
        SourceTensor(_OLD + "mlp.w2.weight", ("mlp", "hidden")),
        SourceTensor(_OLD + "mlp.c_proj.weight", ("hidden", "mlp")),
        SourceTensor("transformer.ln_f.weight", ("hidden",)),
        SourceTensor("lm_head.weight", ("vocab", "hidden"), when=lambda model: not model.tie_word_embeddings),
    ),
    rows=(
        *embedding_rows(_WTE),
        Row(copy(TARGET + "input_layernorm.weight", _OLD + "ln_1.weight")),
        Row(fused_qkv("weight", source=_OLD + "attn.c_attn", layout=STACKED)),
        Row(fused_qkv("bias", source=_OLD + "attn.c_attn", layout=STACKED)),
        Row(cut(TARGET + "attention.dense.weight", _OLD + "attn.c_proj.weight", Cut.QUERY_COLUMNS)),
        Row(copy(TARGET + "post_layernorm.weight", _OLD + "ln_2.weight")),
        # Qwen 1 activates w2 and multiplies it by w1.
        *gated_mlp_rows(gate=_OLD + "mlp.w2", up=_OLD + "mlp.w1", down=_OLD + "mlp.c_proj"),
        Row(copy("transformer.ln_f.weight", "transformer.ln_f.weight", stage=Stage.LAST)),
        *lm_head_rows("lm_head.weight", embedding=_WTE),
    ),
    config_fields=_fields(
        "qwen",
        # Upstream's model halves it again.
        ConfigField("intermediate_size", lambda plan, dtype: 2 * plan.padding.intermediate_size),
        ConfigField("seq_length", lambda plan, dtype: plan.model.max_position_embeddings),
    ),
    dropped=(Dropped(r"transformer\.rotary_emb\.inv_freq", "recomputed by the runtime from rotary_base"),),
)
