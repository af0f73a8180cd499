"""DeepSeek V2 and V2-Lite: latent attention, shared experts beside the chosen ones, as a table.

Not here: DeepSeek V3 and later, which TensorRT-LLM runs on its PyTorch backend alone.
Source: TensorRT-LLM 1.2, models/deepseek_v2/{config,convert,model}.py, DeepseekV2Attention of
layers/attention.py and layers/moe.py; transformers 5, models/deepseek_v2; the remote code of DeepSeek-V2.
"""

from __future__ import annotations

from typing import Any

from builders.families.common.base import ConfigField, Dropped, Family, Row, SourceTensor
from builders.families.common.fields import (
    BASE_FIELDS,
    DENSE_MOE,
    ROTARY_FIELDS,
    SWIGLU,
    constant,
    with_fields,
)
from builders.families.common.keys import ROPE_READS, ConfigKeys
from builders.families.common.reading import ConfigReader
from builders.families.common.rope import read_whole_rope
from builders.families.common.rows import TARGET, copy, cut, expert_rows
from builders.families.llama import (
    FIRST_ROWS,
    LAST_ROWS,
    MAX_LAYERS,
    MLP_ROWS,
    MLP_TENSORS,
    OUTER_TENSORS,
    llama_sizes,
)
from tpforge.dtypes import DType
from tpforge.model import AttentionSpec, LatentSpec, MlpSpec, ModelSpec, MoeSpec, NormSpec, RopeSpec
from tpforge.shards.sections import Section
from tpforge.shards.sharding import Cut, LayerKind, Part, Rule, ShardPlan

_LAYER = "model.layers.{layer}."
_ATTENTION = _LAYER + "self_attn."
_MLP = _LAYER + "mlp."
_EXPERT = _MLP + "experts.{expert}."
_SHARED = _MLP + "shared_experts."
_YARN_KEYS = (
    "beta_fast",
    "beta_slow",
    "factor",
    "mscale",
    "mscale_all_dim",
    "original_max_position_embeddings",
)
_NO_PLACE = "TensorRT-LLM's DeepSeek V2 has no place for it"


def _read(config: ConfigReader) -> ModelSpec:
    config.refuse_quantized()
    for key in ("attention_bias", "mlp_bias", "tie_word_embeddings"):
        config.require(key, expected=(False,), why=_NO_PLACE)
    config.require("hidden_act", expected=("silu",), why=_NO_PLACE)
    # The norms of the latent vectors have it, whatever config.json says, here and in transformers.
    config.require("rms_norm_eps", expected=(1e-6,), why="some norms of DeepSeek V2 always have 1e-6")
    latent = _read_latent(config)
    num_heads, num_layers = (
        config.integer("num_attention_heads"),
        config.integer("num_hidden_layers", maximum=MAX_LAYERS),
    )
    config.require("num_key_value_heads", expected=(num_heads,), why="each head has keys of its own")
    vocab_size = config.integer("vocab_size")
    return config.checked(
        ModelSpec(
            architecture=config.architecture,
            vocab_size=vocab_size,
            hidden_size=config.integer("hidden_size"),
            num_layers=num_layers,
            max_position_embeddings=config.integer("max_position_embeddings"),
            dtype=config.dtype(),
            tie_word_embeddings=False,
            attention=AttentionSpec(
                num_heads=num_heads,
                # Each head has keys and values of its own; what is cached stands for one.
                num_kv_heads=num_heads,
                head_size=latent.qk_nope_head_size + latent.qk_rope_head_size,
                latent=latent,
            ),
            mlp=MlpSpec(intermediate_size=config.integer("intermediate_size"), activation="silu"),
            moe=_read_experts(config, num_layers=num_layers),
            rope=_read_whole_rope(config),
            norm=NormSpec(epsilon=config.number("rms_norm_eps")),
            special_tokens=config.special_tokens(vocab_size=vocab_size),
        )
    )


def _read_latent(config: ConfigReader) -> LatentSpec:
    latent = LatentSpec(
        q_lora_rank=config.integer("q_lora_rank") if config.has("q_lora_rank") else None,
        kv_lora_rank=config.integer("kv_lora_rank"),
        qk_nope_head_size=config.integer("qk_nope_head_dim"),
        qk_rope_head_size=config.integer("qk_rope_head_dim"),
        v_head_size=config.integer("v_head_dim"),
    )
    if latent.v_head_size != latent.qk_nope_head_size:
        config.problem(
            f"v_head_dim: found {latent.v_head_size}, expected qk_nope_head_dim {latent.qk_nope_head_size}: "
            "TensorRT-LLM's kv_b_proj has values as large as keys"
        )
    if latent.qk_rope_head_size % 2:
        config.problem(
            f"qk_rope_head_dim {latent.qk_rope_head_size} is odd; rotary embeddings need an even one"
        )
    return latent


def _read_experts(config: ConfigReader, *, num_layers: int) -> MoeSpec:
    # TensorRT-LLM's model definition has experts from the second layer on, whatever config.json says.
    config.require("first_k_dense_replace", expected=(1,), why=_NO_PLACE)
    config.require("moe_layer_freq", expected=(1,), why=_NO_PLACE)
    # DeepSeek's own code does as it is told, so that the two would be different models.
    config.require("norm_topk_prob", expected=(False,), why="transformers computes as if it were false")
    config.require("scoring_func", expected=("softmax",), why=_NO_PLACE)
    method = config.choice("topk_method", known=("greedy", "group_limited_greedy"))
    num_experts = config.integer("n_routed_experts")
    limited = method == "group_limited_greedy"
    scaling = config.number("routed_scaling_factor")
    if scaling != 1.0 and not limited:
        config.problem(f"routed_scaling_factor: found {scaling}, expected 1.0 with topk_method greedy")
    num_groups = config.integer("n_group") if limited else 1
    if num_experts % num_groups:
        config.problem(f"n_routed_experts {num_experts} is not a multiple of n_group {num_groups}")
    width = config.integer("moe_intermediate_size")
    return MoeSpec(
        num_experts=num_experts,
        top_k=config.integer("num_experts_per_tok", maximum=num_experts),
        intermediate_size=width,
        shared_intermediate_size=width * config.integer("n_shared_experts"),
        normalize=False,
        num_groups=num_groups,
        top_groups=config.integer("topk_group", maximum=num_groups) if limited else 1,
        routed_scaling=scaling,
        layers=tuple(layer > 0 for layer in range(num_layers)),
    )


def _read_whole_rope(config: ConfigReader) -> RopeSpec:
    """The base, and yarn's numbers in the spelling and order of the format."""
    rope = read_whole_rope(config, types=("yarn",))
    if rope.scaling is None:
        config.problem("rope_scaling: missing, expected one of type yarn: TensorRT-LLM knows no other here")
        return rope
    for key in sorted(set(rope.scaling) - {*_YARN_KEYS, "type", "rope_type"}):
        config.problem(f"rope_scaling: {key}: {_NO_PLACE}")
    numbers: dict[str, Any] = {key: rope.scaling.get(key) for key in _YARN_KEYS}
    for key in _YARN_KEYS:
        config.checked_number(f"rope_scaling: {key}", numbers[key])
    return rope.model_copy(update={"scaling": numbers | {"type": "yarn"}})


def _sizes(model: ModelSpec) -> dict[str, int]:
    latent, heads = model.attention.latent, model.attention.num_heads
    assert latent is not None, "DeepSeek's attention is latent"
    return llama_sizes(model) | {
        "q_lora": latent.q_lora_rank or 0,
        "kv_lora": latent.kv_lora_rank,
        "kv_a": latent.kv_lora_rank + latent.qk_rope_head_size,
        "kv_b": heads * (latent.qk_nope_head_size + latent.v_head_size),
        "values": heads * latent.v_head_size,
    }


def _compresses(model: ModelSpec) -> bool:
    """Queries come from a latent vector too; they do not in V2-Lite."""
    return model.attention.latent is not None and model.attention.latent.q_lora_rank is not None


def _compressed(plan: ShardPlan) -> bool:
    return _compresses(plan.model)


def _direct(plan: ShardPlan) -> bool:
    return not _compresses(plan.model)


_SOURCE_TENSORS = (
    *OUTER_TENSORS,
    SourceTensor(_LAYER + "input_layernorm.weight", ("hidden",)),
    SourceTensor(
        _ATTENTION + "q_proj.weight", ("query", "hidden"), when=lambda model: not _compresses(model)
    ),
    SourceTensor(_ATTENTION + "q_a_proj.weight", ("q_lora", "hidden"), when=_compresses),
    SourceTensor(_ATTENTION + "q_a_layernorm.weight", ("q_lora",), when=_compresses),
    SourceTensor(_ATTENTION + "q_b_proj.weight", ("query", "q_lora"), when=_compresses),
    SourceTensor(_ATTENTION + "kv_a_proj_with_mqa.weight", ("kv_a", "hidden")),
    SourceTensor(_ATTENTION + "kv_a_layernorm.weight", ("kv_lora",)),
    SourceTensor(_ATTENTION + "kv_b_proj.weight", ("kv_b", "kv_lora")),
    SourceTensor(_ATTENTION + "o_proj.weight", ("hidden", "values")),
    SourceTensor(_LAYER + "post_attention_layernorm.weight", ("hidden",)),
    *MLP_TENSORS,
    SourceTensor(_MLP + "gate.weight", ("experts", "hidden"), layers=LayerKind.EXPERTS),
    SourceTensor(_EXPERT + "gate_proj.weight", ("expert", "hidden"), layers=LayerKind.EXPERTS),
    SourceTensor(_EXPERT + "up_proj.weight", ("expert", "hidden"), layers=LayerKind.EXPERTS),
    SourceTensor(_EXPERT + "down_proj.weight", ("hidden", "expert"), layers=LayerKind.EXPERTS),
    SourceTensor(_SHARED + "gate_proj.weight", ("shared", "hidden"), layers=LayerKind.EXPERTS),
    SourceTensor(_SHARED + "up_proj.weight", ("shared", "hidden"), layers=LayerKind.EXPERTS),
    SourceTensor(_SHARED + "down_proj.weight", ("hidden", "shared"), layers=LayerKind.EXPERTS),
)

_KV_A = Part(_ATTENTION + "kv_a_proj_with_mqa.weight", Cut.COPY)
_KV_B = _ATTENTION + "kv_b_proj.weight"
_ATTENTION_ROWS = (
    Row(copy(TARGET + "input_layernorm.weight", _LAYER + "input_layernorm.weight")),
    # What leads to the latent vectors is whole on every rank.
    Row(
        Rule(
            TARGET + "attention.fused_a.weight",
            (Part(_ATTENTION + "q_a_proj.weight", Cut.COPY), _KV_A),
        ),
        when=_compressed,
    ),
    Row(Rule(TARGET + "attention.fused_a.weight", (_KV_A,)), when=_direct),
    Row(
        copy(TARGET + "attention.q_a_layernorm.weight", _ATTENTION + "q_a_layernorm.weight"),
        when=_compressed,
    ),
    Row(copy(TARGET + "attention.kv_a_layernorm.weight", _ATTENTION + "kv_a_layernorm.weight")),
    # What leads from them to the heads is cut by head, and has no ".weight" in its name.
    Row(cut(TARGET + "attention.q_b_proj", _ATTENTION + "q_b_proj.weight", Cut.QUERY_ROWS), when=_compressed),
    Row(cut(TARGET + "attention.q_b_proj", _ATTENTION + "q_proj.weight", Cut.QUERY_ROWS), when=_direct),
    Row(
        Rule(
            TARGET + "attention.kv_b_proj",
            (
                Part(_KV_B, Cut.QUERY_ROWS, section=Section.HEAD_KEY),
                Part(_KV_B, Cut.QUERY_ROWS, section=Section.HEAD_VALUE),
            ),
        )
    ),
    Row(cut(TARGET + "attention.k_b_proj_trans", _KV_B, Cut.QUERY_ROWS, transform="key transposed")),
    Row(cut(TARGET + "attention.dense.weight", _ATTENTION + "o_proj.weight", Cut.QUERY_COLUMNS)),
    Row(copy(TARGET + "post_layernorm.weight", _LAYER + "post_attention_layernorm.weight")),
)
_EXPERT_ROWS = (
    *expert_rows(
        router=_MLP + "gate.weight",
        gate=_EXPERT + "gate_proj.weight",
        up=_EXPERT + "up_proj.weight",
        down=_EXPERT + "down_proj.weight",
    ),
    Row(
        Rule(
            TARGET + "mlp.shared_expert.fc.weight",
            (
                Part(_SHARED + "up_proj.weight", Cut.SHARED_ROWS),
                Part(_SHARED + "gate_proj.weight", Cut.SHARED_ROWS),
            ),
            layers=LayerKind.EXPERTS,
        )
    ),
    Row(
        cut(
            TARGET + "mlp.shared_expert.proj.weight",
            _SHARED + "down_proj.weight",
            Cut.SHARED_COLUMNS,
            layers=LayerKind.EXPERTS,
        )
    ),
)


def _latent(plan: ShardPlan) -> LatentSpec:
    assert plan.model.attention.latent is not None, "DeepSeek's attention is latent"
    return plan.model.attention.latent


def _cached_size(plan: ShardPlan, dtype: DType) -> int:
    """Values that a token adds to the cache of a layer: the heads attend to that one vector."""
    return _latent(plan).kv_lora_rank + _latent(plan).qk_rope_head_size


def _is_limited(moe: MoeSpec) -> bool:
    """Whether tokens choose groups of experts first; only then are their weights scaled."""
    return moe.num_groups > 1 or moe.routed_scaling != 1.0


def _moe(plan: ShardPlan, dtype: DType) -> dict[str, Any]:
    """`moe`; normalization_mode is 0 as elsewhere, 3 where groups of experts are limited."""
    moe = plan.model.moe
    assert moe is not None, "DeepSeek V2 has experts"
    limited = _is_limited(moe)
    return DENSE_MOE | {
        "num_experts": moe.num_experts,
        "shared_expert_intermediate_size": plan.padding.shared_size,
        "top_k": moe.top_k,
        "normalization_mode": 3 if limited else 0,
        "device_limited_n_group": moe.num_groups,
        "device_limited_topk_group": moe.top_groups,
        "device_limited_routed_scaling_factor": moe.routed_scaling,
    }


def _topk_method(plan: ShardPlan, dtype: DType) -> str:
    moe = plan.model.moe
    return "group_limited_greedy" if moe is not None and _is_limited(moe) else "greedy"


_FIELDS = (
    *with_fields(
        BASE_FIELDS,
        SWIGLU,
        constant("num_key_value_heads", 1),
        ConfigField("head_size", _cached_size),
        ConfigField("rotary_embedding_dim", _cached_size),
    ),
    constant("mlp_bias", False),
    constant("attn_bias", False),
    *ROTARY_FIELDS,
    constant("residual_mlp", False),
    constant("disable_weight_only_quant_plugin", False),
    ConfigField("moe", _moe),
    constant("remove_duplicated_kv_heads", False),
    constant("fc_after_embed", False),
    constant("use_input_layernorm_in_first_layer", True),
    constant("use_last_layernorm", True),
    constant("layer_idx_offset", 0),
    ConfigField("moe_inter_size", lambda plan, dtype: plan.padding.expert_size),
    ConfigField("kv_lora_rank", lambda plan, dtype: _latent(plan).kv_lora_rank),
    ConfigField("q_lora_rank", lambda plan, dtype: _latent(plan).q_lora_rank),
    ConfigField("qk_nope_head_dim", lambda plan, dtype: _latent(plan).qk_nope_head_size),
    ConfigField("qk_rope_head_dim", lambda plan, dtype: _latent(plan).qk_rope_head_size),
    ConfigField("v_head_dim", lambda plan, dtype: _latent(plan).v_head_size),
    ConfigField("topk_method", _topk_method),
    constant("first_k_dense_replace", 1),
    constant("moe_layer_freq", 1),
    constant("scoring_func", "softmax"),
)
_READS = (
    *ROPE_READS,
    "attention_bias",
    "first_k_dense_replace",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "kv_lora_rank",
    "max_position_embeddings",
    "mlp_bias",
    "moe_intermediate_size",
    "moe_layer_freq",
    "n_group",
    "n_routed_experts",
    "n_shared_experts",
    "norm_topk_prob",
    "num_attention_heads",
    "num_experts_per_tok",
    "num_hidden_layers",
    "num_key_value_heads",
    "q_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "rms_norm_eps",
    "routed_scaling_factor",
    "scoring_func",
    "topk_group",
    "topk_method",
    "v_head_dim",
    "vocab_size",
)

DEEPSEEK_V2 = Family(
    name="deepseek_v2",
    architectures=("DeepseekV2ForCausalLM",),
    keys=ConfigKeys("deepseek_v2", _READS, inert=("head_dim", "qk_head_dim", "seq_aux")),
    read_spec=_read,
    sizes=_sizes,
    source_tensors=_SOURCE_TENSORS,
    rows=(*FIRST_ROWS, *_ATTENTION_ROWS, *MLP_ROWS, *_EXPERT_ROWS, *LAST_ROWS),
    config_fields=_FIELDS,
    dropped=(
        Dropped(
            r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",
            "recomputed by the runtime from rotary_base and rotary_scaling",
        ),
    ),
)
