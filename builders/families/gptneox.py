"""GPT-NeoX and GPT-J: attention and MLP side by side, as tables.

Not here: NeoX with sequential residuals, which TensorRT-LLM does not build.
Source: TensorRT-LLM 1.2, models/gptneox and models/gptj; transformers 5, models/gpt_neox and models/gptj.
"""

from __future__ import annotations

from builders.families.base import ConfigField, Dropped, Family, Row, SourceTensor
from builders.families.fields import BASE_FIELDS, ROTARY_FIELDS, rope
from builders.families.llama import MAX_LAYERS, llama_sizes
from builders.families.reading import ConfigReader
from builders.families.restrictions import heads_as_they_are, mlp_as_it_is
from builders.families.rows import (
    GROUPED,
    TARGET,
    cut,
    embedding_rows,
    fused_qkv,
    linear_rows,
    lm_head_rows,
    norm_rows,
    output_biased,
    separate_qkv,
)
from tpforge.model import AttentionSpec, MlpSpec, ModelSpec, NormSpec, RopeSpec
from tpforge.sharding import Cut, Part, Rule, ShardPlan, Stage

_ACTIVATIONS = ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu", "silu")


def _always(plan: ShardPlan) -> bool:
    return True


def _sizes(model: ModelSpec) -> dict[str, int]:
    sizes = llama_sizes(model)
    return sizes | {"qkv": sizes["query"] + 2 * sizes["kv"]}


def _untied(model: ModelSpec) -> bool:
    return not model.tie_word_embeddings


def _biased(model: ModelSpec) -> bool:
    return model.attention.bias


def _read_neox(config: ConfigReader) -> ModelSpec:
    config.refuse_quantized()
    config.require(
        "use_parallel_residual", expected=(True,), why="TensorRT-LLM builds NeoX with parallel residuals only"
    )
    # TensorRT-LLM makes all norms with this epsilon, whatever config.json says.
    config.require("layer_norm_eps", expected=(1e-5,), why="TensorRT-LLM's NeoX has 1e-5")
    config.require("attention_bias", expected=(True,), why="TensorRT-LLM's NeoX has biases in its attention")
    hidden_size, num_heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    vocab_size = config.integer("vocab_size")
    return config.checked(
        ModelSpec(
            architecture=config.architecture,
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            num_layers=config.integer("num_hidden_layers", maximum=MAX_LAYERS),
            max_position_embeddings=config.integer("max_position_embeddings"),
            dtype=config.dtype(),
            tie_word_embeddings=config.flag("tie_word_embeddings", default=False),
            attention=AttentionSpec(
                num_heads=num_heads,
                num_kv_heads=num_heads,
                head_size=max(1, hidden_size // num_heads),
                bias=True,
                output_bias=True,
            ),
            mlp=MlpSpec(
                intermediate_size=config.integer("intermediate_size"),
                activation=config.choice("hidden_act", known=_ACTIVATIONS, default="gelu"),
                bias=True,
                gated=False,
            ),
            rope=config.rope(
                default_base=10000.0,
                types=(),
                base_key="rotary_emb_base",
                share_key="rotary_pct",
                default_share=0.25,
            ),
            norm=NormSpec(epsilon=config.number("layer_norm_eps", default=1e-5), kind="layernorm", bias=True),
            parallel_residual=True,
            special_tokens=config.special_tokens(vocab_size=vocab_size),
        )
    )


_NEOX = "gpt_neox.layers.{layer}."
_NEOX_NORMS = (_NEOX + "input_layernorm", _NEOX + "post_attention_layernorm", "gpt_neox.final_layer_norm")

GPT_NEOX = Family(
    name="gpt_neox",
    architectures=("GPTNeoXForCausalLM",),
    read_model=_read_neox,
    sizes=_sizes,
    source_tensors=(
        SourceTensor("gpt_neox.embed_in.weight", ("vocab", "hidden")),
        *(
            SourceTensor(f"{norm}.{suffix}", ("hidden",))
            for norm in _NEOX_NORMS
            for suffix in ("weight", "bias")
        ),
        SourceTensor(_NEOX + "attention.query_key_value.weight", ("qkv", "hidden")),
        SourceTensor(_NEOX + "attention.query_key_value.bias", ("qkv",), when=_biased),
        SourceTensor(_NEOX + "attention.dense.weight", ("hidden", "query")),
        SourceTensor(_NEOX + "attention.dense.bias", ("hidden",), when=_biased),
        SourceTensor(_NEOX + "mlp.dense_h_to_4h.weight", ("mlp", "hidden")),
        SourceTensor(_NEOX + "mlp.dense_h_to_4h.bias", ("mlp",)),
        SourceTensor(_NEOX + "mlp.dense_4h_to_h.weight", ("hidden", "mlp")),
        SourceTensor(_NEOX + "mlp.dense_4h_to_h.bias", ("hidden",)),
        SourceTensor("embed_out.weight", ("vocab", "hidden"), when=_untied),
    ),
    rows=(
        *embedding_rows("gpt_neox.embed_in.weight"),
        *norm_rows(TARGET + "input_layernorm", _NEOX + "input_layernorm"),
        Row(fused_qkv("weight", source=_NEOX + "attention.query_key_value", layout=GROUPED)),
        Row(
            fused_qkv("bias", source=_NEOX + "attention.query_key_value", layout=GROUPED), when=output_biased
        ),
        *linear_rows(
            TARGET + "attention.dense", _NEOX + "attention.dense", Cut.QUERY_COLUMNS, bias=output_biased
        ),
        *norm_rows(TARGET + "post_attention_layernorm", _NEOX + "post_attention_layernorm"),
        *linear_rows(TARGET + "mlp.fc", _NEOX + "mlp.dense_h_to_4h", Cut.MLP_ROWS, bias=_always),
        *linear_rows(TARGET + "mlp.proj", _NEOX + "mlp.dense_4h_to_h", Cut.MLP_COLUMNS, bias=_always),
        *norm_rows("transformer.ln_f", "gpt_neox.final_layer_norm", stage=Stage.LAST),
        *lm_head_rows("embed_out.weight", embedding="gpt_neox.embed_in.weight"),
    ),
    config_fields=(
        *BASE_FIELDS,
        *ROTARY_FIELDS,
        ConfigField("rotary_emb_base", lambda plan, dtype: rope(plan.model).base),
        ConfigField("rotary_pct", lambda plan, dtype: rope(plan.model).partial_factor),
    ),
    restrictions=(heads_as_they_are, mlp_as_it_is),
    dropped=(
        Dropped(r"gpt_neox\.layers\.\d+\.attention\.(bias|masked_bias)", "the causal mask, not a weight"),
        Dropped(
            r"gpt_neox\.layers\.\d+\.attention\.rotary_emb\.inv_freq",
            "recomputed by the runtime from rotary_base",
        ),
    ),
)


def _read_gptj(config: ConfigReader) -> ModelSpec:
    config.refuse_quantized()
    hidden_size, num_heads = config.integer("n_embd"), config.integer("n_head")
    head_size = max(1, hidden_size // num_heads)
    # TensorRT-LLM makes the last norm with this epsilon, whatever config.json says.
    config.require("layer_norm_epsilon", expected=(1e-5,), why="TensorRT-LLM's GPT-J has 1e-5")
    rotary_dim = config.integer("rotary_dim", default=min(64, head_size), maximum=head_size)
    vocab_size = config.integer("vocab_size")
    return config.checked(
        ModelSpec(
            architecture=config.architecture,
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            num_layers=config.integer("n_layer", maximum=MAX_LAYERS),
            max_position_embeddings=config.integer("n_positions", default=2048),
            dtype=config.dtype(),
            tie_word_embeddings=config.flag("tie_word_embeddings", default=False),
            attention=AttentionSpec(num_heads=num_heads, num_kv_heads=num_heads, head_size=head_size),
            mlp=MlpSpec(
                intermediate_size=config.integer("n_inner", default=4 * hidden_size),
                activation=config.choice("activation_function", known=_ACTIVATIONS, default="gelu_new"),
                bias=True,
                gated=False,
            ),
            rope=RopeSpec(base=10000.0, partial_factor=rotary_dim / head_size),
            position="rope_gptj",
            norm=NormSpec(
                epsilon=config.number("layer_norm_epsilon", default=1e-5), kind="layernorm", bias=True
            ),
            parallel_residual=True,
            lm_head_bias=True,
            special_tokens=config.special_tokens(vocab_size=vocab_size),
        )
    )


_J = "transformer.h.{layer}."
_J_ATTENTION = {
    name: f"{_J}attn.{short}_proj" for name, short in (("query", "q"), ("key", "k"), ("value", "v"))
}

GPTJ = Family(
    name="gptj",
    architectures=("GPTJForCausalLM",),
    read_model=_read_gptj,
    sizes=_sizes,
    source_tensors=(
        SourceTensor("transformer.wte.weight", ("vocab", "hidden")),
        SourceTensor("transformer.ln_f.weight", ("hidden",)),
        SourceTensor("transformer.ln_f.bias", ("hidden",)),
        SourceTensor("lm_head.weight", ("vocab", "hidden"), when=_untied),
        SourceTensor("lm_head.bias", ("vocab",)),
        SourceTensor(_J + "ln_1.weight", ("hidden",)),
        SourceTensor(_J + "ln_1.bias", ("hidden",)),
        SourceTensor(_J + "attn.q_proj.weight", ("query", "hidden")),
        SourceTensor(_J + "attn.k_proj.weight", ("kv", "hidden")),
        SourceTensor(_J + "attn.v_proj.weight", ("kv", "hidden")),
        SourceTensor(_J + "attn.out_proj.weight", ("hidden", "query")),
        SourceTensor(_J + "mlp.fc_in.weight", ("mlp", "hidden")),
        SourceTensor(_J + "mlp.fc_in.bias", ("mlp",)),
        SourceTensor(_J + "mlp.fc_out.weight", ("hidden", "mlp")),
        SourceTensor(_J + "mlp.fc_out.bias", ("hidden",)),
    ),
    rows=(
        *embedding_rows("transformer.wte.weight"),
        *norm_rows(TARGET + "input_layernorm", _J + "ln_1"),
        Row(separate_qkv("weight", **_J_ATTENTION)),
        Row(cut(TARGET + "attention.dense.weight", _J + "attn.out_proj.weight", Cut.QUERY_COLUMNS)),
        *linear_rows(TARGET + "mlp.fc", _J + "mlp.fc_in", Cut.MLP_ROWS, bias=_always),
        *linear_rows(TARGET + "mlp.proj", _J + "mlp.fc_out", Cut.MLP_COLUMNS, bias=_always),
        *norm_rows("transformer.ln_f", "transformer.ln_f", stage=Stage.LAST),
        *lm_head_rows("lm_head.weight", embedding="transformer.wte.weight"),
        Row(Rule("lm_head.bias", (Part("lm_head.bias", Cut.VOCAB_ROWS),), Stage.LAST)),
    ),
    config_fields=(
        *BASE_FIELDS,
        ConfigField(
            "rotary_dim",
            lambda plan, dtype: int(plan.model.attention.head_size * rope(plan.model).partial_factor),
        ),
    ),
    restrictions=(heads_as_they_are, mlp_as_it_is),
    dropped=(Dropped(r"transformer\.h\.\d+\.attn\.(masked_)?bias", "the causal mask, not a weight"),),
)
