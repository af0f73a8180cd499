"""Llama 1, 2, 3.x and all that saves itself as LlamaForCausalLM, and Mistral: tables.

Not here: Llama 4, mixtures of experts, quantized checkpoints.
Source: TensorRT-LLM 1.2, models/llama/convert.py; transformers 5, models/llama and models/mistral.
"""

from __future__ import annotations

from dataclasses import replace

from builders.families.common.base import Dropped, Family, Row, SourceTensor
from builders.families.common.fields import BASE_FIELDS, LLAMA_FIELDS
from builders.families.common.keys import ROPE_READS, ConfigKeys
from builders.families.common.reading import ConfigReader
from builders.families.common.rope import read_rope
from builders.families.common.rows import (
    TARGET,
    biased,
    copy,
    cut,
    embedding_rows,
    gated_mlp_bias_rows,
    gated_mlp_rows,
    lm_head_rows,
    output_biased,
    separate_qkv,
)
from builders.families.common.tensors import if_biased, if_mlp_biased, if_output_biased, if_untied
from builders.families.common.windows import read_window
from tpforge.model import AttentionSpec, MlpSpec, ModelSpec, NormSpec
from tpforge.shards.sharding import Cut, LayerKind, Rule, Stage

_EMBEDDING = "model.embed_tokens.weight"
_LAYER = "model.layers.{layer}."
_ATTENTION = _LAYER + "self_attn."
# Every layer is looked up by name, so that a config cannot ask for a billion of them.
MAX_LAYERS = 10_000
ROPE_TYPES = ("linear", "dynamic", "yarn", "llama3")


def llama_reads(
    *more: str, activation_key: str = "hidden_act", epsilon_key: str = "rms_norm_eps"
) -> tuple[str, ...]:
    """The keys of `read_llama_like`, and `more` of a family's own."""
    return (
        *ROPE_READS,
        "head_dim",
        "hidden_size",
        "intermediate_size",
        "max_position_embeddings",
        "num_attention_heads",
        "num_hidden_layers",
        "num_key_value_heads",
        "vocab_size",
        activation_key,
        epsilon_key,
        *more,
    )


def _read_llama(config: ConfigReader) -> ModelSpec:
    bias = config.flag("attention_bias")
    model = read_llama_like(config, bias=bias, output_bias=bias)
    mlp = model.mlp.model_copy(update={"bias": config.flag("mlp_bias")})
    return config.checked(model.model_copy(update={"mlp": mlp}))


def _read_mistral(config: ConfigReader) -> ModelSpec:
    return config.checked(read_llama_like(config, sliding_window=read_window(config)))


def _read_heads(config: ConfigReader) -> tuple[int, int, int, int]:
    """hidden_size, heads, KV heads and the size of a head; what does not go together is a problem."""
    hidden_size = config.integer("hidden_size")
    num_heads = config.integer("num_attention_heads")
    num_kv_heads = config.integer("num_key_value_heads", default=num_heads)
    if num_heads % num_kv_heads:
        config.problem(
            f"num_attention_heads {num_heads} is not a multiple of num_key_value_heads {num_kv_heads}"
        )
    if hidden_size % num_heads and not config.has("head_dim"):
        config.problem(f"hidden_size {hidden_size} is not a multiple of num_attention_heads {num_heads}")
    head_size = config.integer("head_dim", default=max(1, hidden_size // num_heads))
    if head_size % 2:
        config.problem(f"head_dim {head_size} is odd; rotary embeddings need an even one")
    return hidden_size, num_heads, num_kv_heads, head_size


def read_llama_like(
    config: ConfigReader,
    *,
    bias: bool = False,
    output_bias: bool = False,
    qk_norm: bool = False,
    sliding_window: int | None = None,
    activations: tuple[str, ...] = ("silu",),
    activation_key: str = "hidden_act",
    epsilon_key: str = "rms_norm_eps",
    rope_types: tuple[str, ...] = ROPE_TYPES,
    partial_rotary: bool = False,
    also_scaled_by: tuple[str, ...] = (),
) -> ModelSpec:
    """The fields that every descendant of Llama spells alike; the caller checks `config` when it is done.

    `partial_rotary` allows that only a part of each head is rotated; `also_scaled_by` are numbers of a rope
    scaling that the family alone has.
    """
    config.refuse_quantized()
    hidden_size, num_heads, num_kv_heads, head_size = _read_heads(config)
    rope = read_rope(config, types=rope_types, also=also_scaled_by)
    kind = (rope.scaling or {}).get("rope_type", (rope.scaling or {}).get("type"))
    if kind == "dynamic" and int(head_size * rope.partial_factor) <= 2:
        config.problem(f"head_dim {head_size}: a dynamic rope needs more than 2 rotated dims of a head")
    if rope.partial_factor != 1.0 and not partial_rotary:
        config.problem(f"partial_rotary_factor: found {rope.partial_factor}, expected 1.0")
    vocab_size = config.integer("vocab_size")
    return ModelSpec(
        architecture=config.architecture,
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_layers=config.integer("num_hidden_layers", maximum=MAX_LAYERS),
        max_position_embeddings=config.integer("max_position_embeddings"),
        dtype=config.dtype(),
        tie_word_embeddings=config.flag("tie_word_embeddings"),
        attention=AttentionSpec(
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_size=head_size,
            bias=bias,
            output_bias=output_bias,
            qk_norm=qk_norm,
            sliding_window=sliding_window,
        ),
        mlp=MlpSpec(
            intermediate_size=config.integer("intermediate_size"),
            activation=config.choice(activation_key, known=activations),
        ),
        rope=rope,
        norm=NormSpec(epsilon=config.number(epsilon_key)),
        special_tokens=config.special_tokens(vocab_size=vocab_size),
    )


def llama_sizes(model: ModelSpec) -> dict[str, int]:
    """The dims that tensors of Llama and its descendants have, by name."""
    attention, moe = model.attention, model.moe
    return {
        "vocab": model.vocab_size,
        "hidden": model.hidden_size,
        "query": attention.num_heads * attention.head_size,
        "kv": attention.num_kv_heads * attention.head_size,
        "qkv": (attention.num_heads + 2 * attention.num_kv_heads) * attention.head_size,
        "head": attention.head_size,
        "mlp": model.mlp.intermediate_size,
        "gate_up": 2 * model.mlp.intermediate_size,
        "experts": moe.num_experts if moe else 0,
        "expert": moe.intermediate_size if moe else 0,
        "shared": moe.shared_intermediate_size if moe else 0,
        "one": 1,
    }


ATTENTION_TENSORS = (
    SourceTensor(_LAYER + "input_layernorm.weight", ("hidden",)),
    SourceTensor(_ATTENTION + "q_proj.weight", ("query", "hidden")),
    SourceTensor(_ATTENTION + "k_proj.weight", ("kv", "hidden")),
    SourceTensor(_ATTENTION + "v_proj.weight", ("kv", "hidden")),
    SourceTensor(_ATTENTION + "o_proj.weight", ("hidden", "query")),
    SourceTensor(_ATTENTION + "q_proj.bias", ("query",), when=if_biased),
    SourceTensor(_ATTENTION + "k_proj.bias", ("kv",), when=if_biased),
    SourceTensor(_ATTENTION + "v_proj.bias", ("kv",), when=if_biased),
    SourceTensor(_ATTENTION + "o_proj.bias", ("hidden",), when=if_output_biased),
    SourceTensor(_LAYER + "post_attention_layernorm.weight", ("hidden",)),
)
MLP_TENSORS = (
    SourceTensor(_LAYER + "mlp.gate_proj.weight", ("mlp", "hidden"), layers=LayerKind.DENSE),
    SourceTensor(_LAYER + "mlp.up_proj.weight", ("mlp", "hidden"), layers=LayerKind.DENSE),
    SourceTensor(_LAYER + "mlp.down_proj.weight", ("hidden", "mlp"), layers=LayerKind.DENSE),
)
_MLP_BIAS_TENSORS = (
    SourceTensor(_LAYER + "mlp.gate_proj.bias", ("mlp",), when=if_mlp_biased),
    SourceTensor(_LAYER + "mlp.up_proj.bias", ("mlp",), when=if_mlp_biased),
    SourceTensor(_LAYER + "mlp.down_proj.bias", ("hidden",), when=if_mlp_biased),
)
OUTER_TENSORS = (
    SourceTensor(_EMBEDDING, ("vocab", "hidden")),
    SourceTensor("model.norm.weight", ("hidden",)),
    SourceTensor("lm_head.weight", ("vocab", "hidden"), when=if_untied),
)


def _qkv(suffix: str) -> Rule:
    return separate_qkv(
        suffix, query=_ATTENTION + "q_proj", key=_ATTENTION + "k_proj", value=_ATTENTION + "v_proj"
    )


ATTENTION_ROWS = (
    Row(copy(TARGET + "input_layernorm.weight", _LAYER + "input_layernorm.weight")),
    Row(_qkv("weight")),
    Row(_qkv("bias"), when=biased),
    Row(cut(TARGET + "attention.dense.weight", _ATTENTION + "o_proj.weight", Cut.QUERY_COLUMNS)),
    # Whole on every rank: the runtime adds it once, after the all-reduce.
    Row(copy(TARGET + "attention.dense.bias", _ATTENTION + "o_proj.bias"), when=output_biased),
    Row(copy(TARGET + "post_layernorm.weight", _LAYER + "post_attention_layernorm.weight")),
)
MLP_ROWS = gated_mlp_rows(
    gate=_LAYER + "mlp.gate_proj",
    up=_LAYER + "mlp.up_proj",
    down=_LAYER + "mlp.down_proj",
    layers=LayerKind.DENSE,
)
# The format holds them; TensorRT-LLM's own conversion drops them silently.
_MLP_BIAS_ROWS = gated_mlp_bias_rows(
    gate=_LAYER + "mlp.gate_proj", up=_LAYER + "mlp.up_proj", down=_LAYER + "mlp.down_proj"
)
FIRST_ROWS = embedding_rows(_EMBEDDING)
LAST_ROWS = (
    Row(copy("transformer.ln_f.weight", "model.norm.weight", stage=Stage.LAST)),
    *lm_head_rows("lm_head.weight", embedding=_EMBEDDING),
)

LLAMA = Family(
    name="llama",
    architectures=("LlamaForCausalLM",),
    keys=ConfigKeys("llama", llama_reads("attention_bias", "mlp_bias")),
    read_spec=_read_llama,
    sizes=llama_sizes,
    source_tensors=(*OUTER_TENSORS, *ATTENTION_TENSORS, *MLP_TENSORS, *_MLP_BIAS_TENSORS),
    rows=(*FIRST_ROWS, *ATTENTION_ROWS, *MLP_ROWS, *_MLP_BIAS_ROWS, *LAST_ROWS),
    config_fields=(*BASE_FIELDS, *LLAMA_FIELDS),
    dropped=(
        Dropped(
            # One a layer until transformers 4.43, one for all since then.
            r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.(original_)?inv_freq",
            "recomputed by the runtime from rotary_base and rotary_scaling",
        ),
    ),
)

MISTRAL = replace(
    LLAMA,
    name="mistral",
    architectures=("MistralForCausalLM",),
    keys=ConfigKeys("mistral", llama_reads("sliding_window")),
    read_spec=_read_mistral,
)
