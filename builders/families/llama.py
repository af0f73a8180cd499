"""Llama 1, 2, 3.x and all that saves itself as LlamaForCausalLM, and Mistral: tables.

Not here: Llama 4, mixtures of experts, quantized checkpoints.
Source: TensorRT-LLM 1.2, models/llama/convert.py; transformers 5, models/llama and models/mistral.
"""

from __future__ import annotations

from dataclasses import replace

from builders.families.base import Dropped, Family, Row, SourceTensor
from builders.families.fields import BASE_FIELDS, LLAMA_FIELDS
from builders.families.reading import ConfigReader
from tpforge.model import AttentionSpec, MlpSpec, ModelSpec, NormSpec
from tpforge.sharding import Cut, Part, Rule, Stage

_EMBEDDING = "model.embed_tokens.weight"
_LAYER = "model.layers.{layer}."
_TARGET = "transformer.layers.{layer}."
# Every layer is looked up by name, so that a config cannot ask for a billion of them.
_MAX_LAYERS = 10_000
_ROPE_TYPES = ("linear", "dynamic", "yarn", "llama3")


def _read_llama(config: ConfigReader) -> ModelSpec:
    config.require(
        "mlp_bias",
        expected=(False,),
        why="biases of the MLP are not supported (TensorRT-LLM's own conversion drops them silently)",
    )
    bias = config.flag("attention_bias", default=False)
    return _read(config, bias=bias, sliding_window=None)


def _read_mistral(config: ConfigReader) -> ModelSpec:
    window = config.integer("sliding_window") if config.has("sliding_window") else None
    return _read(config, bias=False, sliding_window=window)


def _read(config: ConfigReader, *, bias: bool, sliding_window: int | None) -> ModelSpec:
    config.require(
        "quantization_config", expected=(), why="the weights are quantized; give the unquantized checkpoint"
    )
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
    rope = config.rope(default_base=10000.0, types=_ROPE_TYPES)
    if rope.partial_factor != 1.0:
        config.problem(f"partial_rotary_factor: found {rope.partial_factor}, expected 1.0")
    vocab_size = config.integer("vocab_size")
    model = ModelSpec(
        architecture=config.architecture,
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_layers=config.integer("num_hidden_layers", maximum=_MAX_LAYERS),
        max_position_embeddings=config.integer("max_position_embeddings"),
        dtype=config.dtype(),
        tie_word_embeddings=config.flag("tie_word_embeddings", default=False),
        attention=AttentionSpec(
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_size=head_size,
            bias=bias,
            output_bias=bias,
            sliding_window=sliding_window,
        ),
        mlp=MlpSpec(
            intermediate_size=config.integer("intermediate_size"),
            activation=config.choice("hidden_act", known=("silu",), default="silu"),
        ),
        rope=rope,
        norm=NormSpec(epsilon=config.number("rms_norm_eps", default=1e-6)),
        special_tokens=config.special_tokens(vocab_size=vocab_size),
    )
    config.finish()
    return model


def _sizes(model: ModelSpec) -> dict[str, int]:
    attention = model.attention
    return {
        "vocab": model.vocab_size,
        "hidden": model.hidden_size,
        "query": attention.num_heads * attention.head_size,
        "kv": attention.num_kv_heads * attention.head_size,
        "mlp": model.mlp.intermediate_size,
    }


def _untied(model: ModelSpec) -> bool:
    return not model.tie_word_embeddings


def _biased(model: ModelSpec) -> bool:
    return model.attention.bias


def _output_biased(model: ModelSpec) -> bool:
    return model.attention.output_bias


_SOURCE_TENSORS = (
    SourceTensor(_EMBEDDING, ("vocab", "hidden")),
    SourceTensor(_LAYER + "input_layernorm.weight", ("hidden",)),
    SourceTensor(_LAYER + "self_attn.q_proj.weight", ("query", "hidden")),
    SourceTensor(_LAYER + "self_attn.k_proj.weight", ("kv", "hidden")),
    SourceTensor(_LAYER + "self_attn.v_proj.weight", ("kv", "hidden")),
    SourceTensor(_LAYER + "self_attn.o_proj.weight", ("hidden", "query")),
    SourceTensor(_LAYER + "self_attn.q_proj.bias", ("query",), when=_biased),
    SourceTensor(_LAYER + "self_attn.k_proj.bias", ("kv",), when=_biased),
    SourceTensor(_LAYER + "self_attn.v_proj.bias", ("kv",), when=_biased),
    SourceTensor(_LAYER + "self_attn.o_proj.bias", ("hidden",), when=_output_biased),
    SourceTensor(_LAYER + "post_attention_layernorm.weight", ("hidden",)),
    SourceTensor(_LAYER + "mlp.gate_proj.weight", ("mlp", "hidden")),
    SourceTensor(_LAYER + "mlp.up_proj.weight", ("mlp", "hidden")),
    SourceTensor(_LAYER + "mlp.down_proj.weight", ("hidden", "mlp")),
    SourceTensor("model.norm.weight", ("hidden",)),
    SourceTensor("lm_head.weight", ("vocab", "hidden"), when=_untied),
)


def _copy(target: str, source: str, stage: Stage = Stage.LAYER) -> Rule:
    return Rule(target, (Part(source, Cut.COPY),), stage)


def _qkv(suffix: str) -> Rule:
    return Rule(
        _TARGET + f"attention.qkv.{suffix}",
        (
            Part(_LAYER + f"self_attn.q_proj.{suffix}", Cut.QUERY_ROWS),
            Part(_LAYER + f"self_attn.k_proj.{suffix}", Cut.KV_ROWS),
            Part(_LAYER + f"self_attn.v_proj.{suffix}", Cut.KV_ROWS),
        ),
    )


def _embedding(cut: Cut) -> Rule:
    return Rule("transformer.vocab_embedding.weight", (Part(_EMBEDDING, cut),), Stage.FIRST)


def _lm_head(source: str) -> Rule:
    return Rule("lm_head.weight", (Part(source, Cut.VOCAB_ROWS),), Stage.LAST)


_ROWS = (
    Row(_embedding(Cut.COPY), when=lambda plan: plan.parallel_embedding_dim is None),
    Row(_embedding(Cut.VOCAB_ROWS), when=lambda plan: plan.parallel_embedding_dim == 0),
    Row(_embedding(Cut.HIDDEN_COLUMNS), when=lambda plan: plan.parallel_embedding_dim == 1),
    Row(_copy(_TARGET + "input_layernorm.weight", _LAYER + "input_layernorm.weight")),
    Row(_qkv("weight")),
    Row(_qkv("bias"), when=lambda plan: plan.model.attention.bias),
    Row(
        Rule(
            _TARGET + "attention.dense.weight",
            (Part(_LAYER + "self_attn.o_proj.weight", Cut.QUERY_COLUMNS),),
        )
    ),
    # Whole on every rank: the runtime adds it once, after the all-reduce.
    Row(
        _copy(_TARGET + "attention.dense.bias", _LAYER + "self_attn.o_proj.bias"),
        when=lambda plan: plan.model.attention.output_bias,
    ),
    Row(_copy(_TARGET + "post_layernorm.weight", _LAYER + "post_attention_layernorm.weight")),
    # TensorRT-LLM calls HF's gate_proj "fc" and its up_proj "gate".
    Row(Rule(_TARGET + "mlp.fc.weight", (Part(_LAYER + "mlp.gate_proj.weight", Cut.MLP_ROWS),))),
    Row(Rule(_TARGET + "mlp.gate.weight", (Part(_LAYER + "mlp.up_proj.weight", Cut.MLP_ROWS),))),
    Row(Rule(_TARGET + "mlp.proj.weight", (Part(_LAYER + "mlp.down_proj.weight", Cut.MLP_COLUMNS),))),
    Row(_copy("transformer.ln_f.weight", "model.norm.weight", Stage.LAST)),
    Row(_lm_head("lm_head.weight"), when=lambda plan: not plan.model.tie_word_embeddings),
    # The format wants a real copy of a tied embedding.
    Row(_lm_head(_EMBEDDING), when=lambda plan: plan.model.tie_word_embeddings),
)

LLAMA = Family(
    name="llama",
    architectures=("LlamaForCausalLM",),
    read_model=_read_llama,
    sizes=_sizes,
    source_tensors=_SOURCE_TENSORS,
    rows=_ROWS,
    config_fields=(*BASE_FIELDS, *LLAMA_FIELDS),
    dropped=(
        Dropped(
            r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",
            "recomputed by the runtime from rotary_base and rotary_scaling",
        ),
    ),
)

MISTRAL = replace(LLAMA, name="mistral", architectures=("MistralForCausalLM",), read_model=_read_mistral)
