"""OPT: layer norms before the blocks, learned positions that start at the third row, as a table.

Not here: OPT-350M, whose norms come after the blocks and whose embeddings are projected.
Source: TensorRT-LLM 1.2, models/opt; transformers 5, models/opt.
"""

from __future__ import annotations

from builders.families.base import Family, Row, SourceTensor
from builders.families.fields import BASE_FIELDS, constant
from builders.families.llama import MAX_LAYERS, llama_sizes
from builders.families.reading import ConfigReader
from builders.families.restrictions import heads_as_they_are
from builders.families.rows import TARGET, embedding_rows, linear_rows, lm_head_rows, norm_rows, separate_qkv
from tpforge.model import AttentionSpec, MlpSpec, ModelSpec, NormSpec
from tpforge.sections import Section
from tpforge.sharding import Cut, Part, Rule, ShardPlan, Stage

_LAYER = "model.decoder.layers.{layer}."
_ATTENTION = _LAYER + "self_attn."
_EMBEDDING = "model.decoder.embed_tokens.weight"
_POSITIONS = "model.decoder.embed_positions.weight"
_NAMES = {"query": _ATTENTION + "q_proj", "key": _ATTENTION + "k_proj", "value": _ATTENTION + "v_proj"}


def _read(config: ConfigReader) -> ModelSpec:
    config.refuse_quantized()
    hidden_size, num_heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    vocab_size = config.integer("vocab_size")
    for key in ("do_layer_norm_before", "enable_bias", "layer_norm_elementwise_affine"):
        config.require(key, expected=(True,), why="this variant of OPT is not supported")
    config.require(
        "word_embed_proj_dim", expected=(hidden_size,), why="projected embeddings are not in the format"
    )
    config.require("_remove_final_layer_norm", expected=(False,), why="the format has a final norm")
    return config.checked(
        ModelSpec(
            architecture=config.architecture,
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            num_layers=config.integer("num_hidden_layers", maximum=MAX_LAYERS),
            max_position_embeddings=config.integer("max_position_embeddings"),
            dtype=config.dtype(),
            tie_word_embeddings=config.flag("tie_word_embeddings", default=True),
            attention=AttentionSpec(
                num_heads=num_heads,
                num_kv_heads=num_heads,
                head_size=max(1, hidden_size // num_heads),
                bias=True,
                output_bias=True,
            ),
            mlp=MlpSpec(
                intermediate_size=config.integer("ffn_dim"),
                activation=config.choice("activation_function", known=("relu", "gelu"), default="relu"),
                bias=True,
                gated=False,
            ),
            rope=None,
            position="learned_absolute",
            norm=NormSpec(epsilon=1e-5, kind="layernorm", bias=True),
            special_tokens=config.special_tokens(vocab_size=vocab_size),
        )
    )


def _sizes(model: ModelSpec) -> dict[str, int]:
    # The first two rows of the table stand for padding.
    return llama_sizes(model) | {"positions": model.max_position_embeddings + 2}


def _always(plan: ShardPlan) -> bool:
    return True


def _linear(name: str, rows: str, columns: str) -> tuple[SourceTensor, ...]:
    return (SourceTensor(f"{name}.weight", (rows, columns)), SourceTensor(f"{name}.bias", (rows,)))


def _norm(name: str) -> tuple[SourceTensor, ...]:
    return (SourceTensor(f"{name}.weight", ("hidden",)), SourceTensor(f"{name}.bias", ("hidden",)))


OPT = Family(
    name="opt",
    architectures=("OPTForCausalLM",),
    read_model=_read,
    sizes=_sizes,
    source_tensors=(
        SourceTensor(_EMBEDDING, ("vocab", "hidden")),
        SourceTensor(_POSITIONS, ("positions", "hidden")),
        *_norm("model.decoder.final_layer_norm"),
        *_norm(_LAYER + "self_attn_layer_norm"),
        *_norm(_LAYER + "final_layer_norm"),
        *_linear(_ATTENTION + "q_proj", "query", "hidden"),
        *_linear(_ATTENTION + "k_proj", "kv", "hidden"),
        *_linear(_ATTENTION + "v_proj", "kv", "hidden"),
        *_linear(_ATTENTION + "out_proj", "hidden", "query"),
        *_linear(_LAYER + "fc1", "mlp", "hidden"),
        *_linear(_LAYER + "fc2", "hidden", "mlp"),
        SourceTensor("lm_head.weight", ("vocab", "hidden"), when=lambda model: not model.tie_word_embeddings),
    ),
    rows=(
        *embedding_rows(_EMBEDDING),
        Row(
            Rule(
                "transformer.position_embedding.weight",
                (Part(_POSITIONS, Cut.COPY, section=Section.AFTER_TWO),),
                Stage.FIRST,
            )
        ),
        *norm_rows(TARGET + "input_layernorm", _LAYER + "self_attn_layer_norm"),
        Row(separate_qkv("weight", **_NAMES)),
        Row(separate_qkv("bias", **_NAMES)),
        *linear_rows(TARGET + "attention.dense", _ATTENTION + "out_proj", Cut.QUERY_COLUMNS, bias=_always),
        *norm_rows(TARGET + "post_layernorm", _LAYER + "final_layer_norm"),
        *linear_rows(TARGET + "mlp.fc", _LAYER + "fc1", Cut.MLP_ROWS, bias=_always),
        *linear_rows(TARGET + "mlp.proj", _LAYER + "fc2", Cut.MLP_COLUMNS, bias=_always),
        *norm_rows("transformer.ln_f", "model.decoder.final_layer_norm", stage=Stage.LAST),
        *lm_head_rows("lm_head.weight", embedding=_EMBEDDING),
    ),
    config_fields=(*BASE_FIELDS, constant("do_layer_norm_before", True)),
    optional_prefix="model.",
    restrictions=(heads_as_they_are,),
)
