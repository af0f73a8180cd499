"""ChatGLM 2 and 3 and GLM-4 as saved with their remote code: half of each head rotated in pairs, as a table.

Not here: ChatGLM-6B and GLM-10B, which are not causal; GLM-4 as saved by transformers (GlmForCausalLM),
which TensorRT-LLM's TensorRT backend does not know.
Source: TensorRT-LLM 1.2, models/chatglm/{config,convert,model}.py; the remote code of chatglm2-6b,
chatglm3-6b and glm-4-9b.
"""

from __future__ import annotations

from builders.families.common.base import ConfigField, Dropped, Family, Row, SourceTensor
from builders.families.common.fields import BASE_FIELDS, SWIGLU, constant, rope, with_fields
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
    fused_gate_up_row,
    fused_qkv,
    lm_head_rows,
)
from builders.families.common.tensors import if_biased
from builders.families.llama import MAX_LAYERS, llama_sizes
from tpforge.model import AttentionSpec, MlpSpec, ModelSpec, NormSpec, RopeSpec
from tpforge.shards.sharding import Cut, ShardPlan, Stage

_LAYER = "transformer.encoder.layers.{layer}."
_ATTENTION = _LAYER + "self_attention."
_GATE_UP = _LAYER + "mlp.dense_h_to_4h.weight"
_EMBEDDING = "transformer.embedding.word_embeddings.weight"
_VOCAB_SIZE_OF_2_AND_3 = 65024
_BASE = 10000.0
_EXPECTED = {
    "add_bias_linear": False,
    "apply_residual_connection_post_layernorm": False,
    "original_rope": True,
    "post_layer_norm": True,
    "rmsnorm": True,
    "tie_word_embeddings": False,
}


def _read(config: ConfigReader) -> ModelSpec:
    config.refuse_quantized()
    for key, expected in _EXPECTED.items():
        config.require(key, expected=(expected,), why="no published ChatGLM is so, and none was tried")
    config.require("quantization_bit", expected=(0,), why="give the unquantized checkpoint")
    config.require("pre_seq_len", expected=(), why="the prefixes of P-tuning are not built")
    hidden_size = config.integer("hidden_size")
    num_heads = config.integer("num_attention_heads")
    grouped = config.flag("multi_query_attention")
    num_kv_heads = config.integer("multi_query_group_num") if grouped else num_heads
    if num_heads % num_kv_heads:
        config.problem(
            f"num_attention_heads {num_heads} is not a multiple of multi_query_group_num {num_kv_heads}"
        )
    head_size = config.integer("kv_channels")
    if head_size * num_heads != hidden_size or head_size % 4:
        config.problem(
            f"kv_channels {head_size} x num_attention_heads {num_heads}: expected hidden_size {hidden_size} "
            "in heads of a multiple of 4"
        )
    vocab_size = config.integer("padded_vocab_size")
    return config.checked(
        ModelSpec(
            architecture=config.architecture,
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            num_layers=config.integer("num_layers", maximum=MAX_LAYERS),
            max_position_embeddings=config.integer("seq_length"),
            dtype=config.dtype(),
            tie_word_embeddings=False,
            attention=AttentionSpec(
                num_heads=num_heads,
                num_kv_heads=num_kv_heads,
                head_size=head_size,
                bias=config.flag("add_qkv_bias"),
            ),
            mlp=MlpSpec(intermediate_size=config.integer("ffn_hidden_size"), activation="silu"),
            rope=_rope(config, vocab_size=vocab_size),
            position="rope_gptj",
            norm=NormSpec(epsilon=config.number("layernorm_epsilon")),
            special_tokens=config.special_tokens(vocab_size=vocab_size),
        )
    )


def _rope(config: ConfigReader, *, vocab_size: int) -> RopeSpec:
    """`rope_ratio` stretches the positions of ChatGLM 2, but multiplies the base from ChatGLM 3 on."""
    ratio = config.number("rope_ratio")
    name = str(config.value("_name_or_path") or "")
    if ratio == 1.0 or vocab_size != _VOCAB_SIZE_OF_2_AND_3 or "chatglm3" in name:
        return RopeSpec(base=_BASE * ratio, partial_factor=0.5)
    if "chatglm2" in name:
        return RopeSpec(base=_BASE, scaling={"type": "linear", "factor": ratio}, partial_factor=0.5)
    config.problem(
        f"rope_ratio: found {ratio}, which ChatGLM 2 and 3 understand differently, and _name_or_path "
        f'{name!r}; set "_name_or_path" in config.json to a name with chatglm2 or chatglm3 in it'
    )
    return RopeSpec(base=_BASE, partial_factor=0.5)


def _version(plan: ShardPlan, dtype: object) -> str:
    if plan.model.vocab_size != _VOCAB_SIZE_OF_2_AND_3:
        return "glm4"
    return "chatglm2" if rope(plan.model).scaling else "chatglm3"


_READS = (
    *_EXPECTED,
    "_name_or_path",
    "add_qkv_bias",
    "ffn_hidden_size",
    "hidden_size",
    "kv_channels",
    "layernorm_epsilon",
    "multi_query_attention",
    "multi_query_group_num",
    "num_attention_heads",
    "num_layers",
    "padded_vocab_size",
    "pre_seq_len",
    "quantization_bit",
    "rope_ratio",
    "seq_length",
)
# How exactly the same is computed: factors that are taken out again, and the types between.
_INERT = (
    "apply_query_key_layer_scaling",
    "attention_softmax_in_fp32",
    "bias_dropout_fusion",
    "fp32_residual_connection",
    "prefix_projection",
)

CHATGLM = Family(
    name="chatglm",
    architectures=("ChatGLMModel", "ChatGLMForConditionalGeneration", "ChatGLMForCausalLM"),
    keys=ConfigKeys("chatglm", _READS, inert=_INERT),
    read_spec=_read,
    sizes=llama_sizes,
    source_tensors=(
        SourceTensor(_EMBEDDING, ("vocab", "hidden")),
        SourceTensor(_LAYER + "input_layernorm.weight", ("hidden",)),
        SourceTensor(_ATTENTION + "query_key_value.weight", ("qkv", "hidden")),
        SourceTensor(_ATTENTION + "query_key_value.bias", ("qkv",), when=if_biased),
        SourceTensor(_ATTENTION + "dense.weight", ("hidden", "query")),
        SourceTensor(_LAYER + "post_attention_layernorm.weight", ("hidden",)),
        SourceTensor(_GATE_UP, ("gate_up", "hidden")),
        SourceTensor(_LAYER + "mlp.dense_4h_to_h.weight", ("hidden", "mlp")),
        SourceTensor("transformer.encoder.final_layernorm.weight", ("hidden",)),
        SourceTensor("transformer.output_layer.weight", ("vocab", "hidden")),
    ),
    rows=(
        *embedding_rows(_EMBEDDING),
        Row(copy(TARGET + "input_layernorm.weight", _LAYER + "input_layernorm.weight")),
        Row(fused_qkv("weight", source=_ATTENTION + "query_key_value", layout=STACKED)),
        Row(fused_qkv("bias", source=_ATTENTION + "query_key_value", layout=STACKED), when=biased),
        Row(cut(TARGET + "attention.dense.weight", _ATTENTION + "dense.weight", Cut.QUERY_COLUMNS)),
        Row(copy(TARGET + "post_layernorm.weight", _LAYER + "post_attention_layernorm.weight")),
        fused_gate_up_row(_GATE_UP),
        Row(cut(TARGET + "mlp.proj.weight", _LAYER + "mlp.dense_4h_to_h.weight", Cut.MLP_COLUMNS)),
        Row(copy("transformer.ln_f.weight", "transformer.encoder.final_layernorm.weight", stage=Stage.LAST)),
        *lm_head_rows("transformer.output_layer.weight", embedding=_EMBEDDING),
    ),
    config_fields=(
        *with_fields(BASE_FIELDS, SWIGLU),
        ConfigField("chatglm_version", _version),
        constant("add_bias_linear", False),
        ConfigField("add_qkv_bias", lambda plan, dtype: plan.model.attention.bias),
        constant("apply_query_key_layer_scaling", False),
        constant("apply_residual_connection_post_layernorm", False),
        constant("rmsnorm", True),
        constant("rotary_pct", 0.5),
        ConfigField("rotary_base", lambda plan, dtype: rope(plan.model).base),
        ConfigField("rotary_scaling", lambda plan, dtype: rope(plan.model).scaling),
    ),
    restrictions=(heads_as_they_are,),
    dropped=(
        Dropped(r"transformer\.rotary_pos_emb\.inv_freq", "recomputed by the runtime from rotary_base"),
    ),
)
