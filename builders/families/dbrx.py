"""DBRX: q, k, v stacked and clipped, all experts of a layer in one tensor, as a table.

Source: TensorRT-LLM 1.2, models/dbrx/{config,model}.py and examples/models/contrib/dbrx; transformers 5,
models/dbrx.
"""

from __future__ import annotations

from builders.families.common.base import ConfigField, Family, Row, SourceTensor
from builders.families.common.fields import (
    BASE_FIELDS,
    EXPERT_SIZE,
    ROTARY_FIELDS,
    SWIGLU,
    constant,
    moe_field,
    with_fields,
)
from builders.families.common.keys import ROPE_READS, ConfigKeys
from builders.families.common.reading import ConfigReader
from builders.families.common.restrictions import heads_as_they_are
from builders.families.common.rope import read_whole_rope
from builders.families.common.rows import (
    STACKED,
    TARGET,
    copy,
    cut,
    embedding_rows,
    fused_qkv,
    lm_head_rows,
    norm_rows,
)
from builders.families.llama import MAX_LAYERS, llama_sizes
from tpforge.dtypes import DType
from tpforge.model import AttentionSpec, MlpSpec, ModelSpec, MoeSpec, NormSpec
from tpforge.shards.sections import Section
from tpforge.shards.sharding import Cut, Part, Rule, Stage

_BLOCK = "transformer.blocks.{layer}."
_ATTENTION = _BLOCK + "norm_attn_norm."
_EXPERTS = _BLOCK + "ffn.experts.mlp."
_EMBEDDING = "transformer.wte.weight"
# What torch.nn.LayerNorm takes unasked; DBRX's config.json has no key for it.
_EPSILON = 1e-5


def _read(config: ConfigReader) -> ModelSpec:
    config.refuse_quantized()
    attention, block = config.within("attn_config"), config.within("ffn_config")
    hidden_size, num_heads = config.integer("d_model"), config.integer("n_heads")
    if hidden_size % num_heads:
        config.problem(f"d_model {hidden_size} is not a multiple of n_heads {num_heads}")
    config.require("head_dim", expected=(hidden_size // num_heads,), why="expected d_model / n_heads")
    num_kv_heads = attention.integer("kv_n_heads")
    if num_heads % num_kv_heads:
        config.problem(f"n_heads {num_heads} is not a multiple of attn_config.kv_n_heads {num_kv_heads}")
    config.require("tie_word_embeddings", expected=(False,), why="DBRX's LM head has weights of its own")
    base = _with_base(config, attention)
    vocab_size = config.integer("vocab_size")
    experts = _read_experts(block)
    return config.checked(
        ModelSpec(
            architecture=config.architecture,
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            num_layers=config.integer("n_layers", maximum=MAX_LAYERS),
            max_position_embeddings=config.integer("max_seq_len"),
            dtype=config.dtype(),
            tie_word_embeddings=False,
            attention=AttentionSpec(
                num_heads=num_heads,
                num_kv_heads=num_kv_heads,
                head_size=max(1, hidden_size // num_heads),
                clip_qkv=attention.number("clip_qkv") if attention.has("clip_qkv") else None,
            ),
            mlp=MlpSpec(intermediate_size=experts.intermediate_size, activation="silu"),
            moe=experts,
            rope=read_whole_rope(base, types=()),
            norm=NormSpec(epsilon=_EPSILON, kind="layernorm"),
            special_tokens=config.special_tokens(vocab_size=vocab_size),
        )
    )


def _with_base(config: ConfigReader, attention: ConfigReader) -> ConfigReader:
    """`config` with the base of the rope, which published configs have among the attention's keys.

    Transformers 5 executes rope_parameters alone, and where there are none fills in its own default, so that
    a config it has saved may state two.
    """
    found = attention.value("rope_theta")
    if found is None:
        return config
    other = config.within("rope_parameters").value("rope_theta")
    if other is not None and other != found:
        config.problem(
            f"attn_config.rope_theta {found} and rope_parameters.rope_theta {other} differ: transformers 5 "
            "executes the second, but DBRX was trained with the first; delete the wrong one"
        )
    return config.replaced(rope_theta=found)


def _read_experts(block: ConfigReader) -> MoeSpec:
    block.within("ffn_act_fn").require("name", expected=("silu",), why="its experts are gated by silu")
    block.require(
        "moe_normalize_expert_weights",
        expected=(1,),
        why="the format divides the weights of the chosen experts by their sum, or not at all",
    )
    num_experts = block.integer("moe_num_experts")
    return MoeSpec(
        num_experts=num_experts,
        top_k=block.integer("moe_top_k", maximum=num_experts),
        intermediate_size=block.integer("ffn_hidden_size"),
        # null is "not at all"; an absent key is 1.
        normalize=block.value("moe_normalize_expert_weights") is not None,
    )


def _sizes(model: ModelSpec) -> dict[str, int]:
    sizes = llama_sizes(model)
    return sizes | {
        "all_experts": sizes["experts"] * sizes["expert"],
    }


_UP_GATE = (
    Part(_EXPERTS + "v1", Cut.EXPERT_ROWS, section=Section.EXPERT),
    Part(_EXPERTS + "w1", Cut.EXPERT_ROWS, section=Section.EXPERT),
)
# w2 lies as [in, out] for each expert.
_DOWN = (Part(_EXPERTS + "w2", Cut.EXPERT_COLUMNS, "transpose", Section.EXPERT),)

DBRX = Family(
    name="dbrx",
    architectures=("DbrxForCausalLM",),
    keys=ConfigKeys(
        "dbrx",
        (
            *ROPE_READS,
            "attn_config",
            "attn_config.clip_qkv",
            "attn_config.kv_n_heads",
            "attn_config.rope_theta",
            "d_model",
            "ffn_config",
            "ffn_config.ffn_act_fn",
            "ffn_config.ffn_act_fn.name",
            "ffn_config.ffn_hidden_size",
            "ffn_config.moe_normalize_expert_weights",
            "ffn_config.moe_num_experts",
            "ffn_config.moe_top_k",
            "head_dim",
            "max_seq_len",
            "n_heads",
            "n_layers",
            "rope_parameters.rope_theta",
            "vocab_size",
        ),
        inert=(
            "ffn_config.hidden_size",
            "ffn_config.moe_jitter_eps",
            "ffn_config.moe_loss_weight",
        ),
    ),
    read_spec=_read,
    sizes=_sizes,
    source_tensors=(
        SourceTensor(_EMBEDDING, ("vocab", "hidden")),
        SourceTensor(_ATTENTION + "norm_1.weight", ("hidden",)),
        SourceTensor(_ATTENTION + "attn.Wqkv.weight", ("qkv", "hidden")),
        SourceTensor(_ATTENTION + "attn.out_proj.weight", ("hidden", "query")),
        SourceTensor(_ATTENTION + "norm_2.weight", ("hidden",)),
        SourceTensor(_BLOCK + "ffn.router.layer.weight", ("experts", "hidden")),
        # All experts of the layer, one after the other.
        SourceTensor(_EXPERTS + "w1", ("all_experts", "hidden")),
        SourceTensor(_EXPERTS + "v1", ("all_experts", "hidden")),
        SourceTensor(_EXPERTS + "w2", ("all_experts", "hidden")),
        SourceTensor("transformer.norm_f.weight", ("hidden",)),
        SourceTensor("lm_head.weight", ("vocab", "hidden")),
    ),
    rows=(
        *embedding_rows(_EMBEDDING),
        *norm_rows(TARGET + "input_layernorm", _ATTENTION + "norm_1", bias=False),
        Row(fused_qkv("weight", source=_ATTENTION + "attn.Wqkv", layout=STACKED)),
        Row(cut(TARGET + "attention.dense.weight", _ATTENTION + "attn.out_proj.weight", Cut.QUERY_COLUMNS)),
        *norm_rows(TARGET + "post_layernorm", _ATTENTION + "norm_2", bias=False),
        Row(copy(TARGET + "mlp.router.weight", _BLOCK + "ffn.router.layer.weight", dtype=DType.FLOAT32)),
        Row(Rule(TARGET + "mlp.fc.weight", _UP_GATE, experts=True)),
        Row(Rule(TARGET + "mlp.proj.weight", _DOWN, experts=True)),
        *norm_rows("transformer.ln_f", "transformer.norm_f", stage=Stage.LAST, bias=False),
        *lm_head_rows("lm_head.weight", embedding=_EMBEDDING),
    ),
    config_fields=(
        *with_fields(BASE_FIELDS, SWIGLU, EXPERT_SIZE),
        constant("bias", False),
        ConfigField("clip_qkv", lambda plan, dtype: plan.model.attention.clip_qkv),
        *ROTARY_FIELDS,
        moe_field(),
    ),
    restrictions=(heads_as_they_are,),
)
