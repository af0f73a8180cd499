"""GPT-NeoX and GPT-J: attention and MLP side by side, as tables.

Not here: NeoX with sequential residuals, which TensorRT-LLM does not build.
Source: TensorRT-LLM 1.2, models/gptneox and models/gptj; transformers 5, models/gpt_neox and models/gptj.
"""

from __future__ import annotations

from builders.families.common.base import ConfigField, Dropped, Family, Row, SourceTensor
from builders.families.common.fields import BASE_FIELDS, ROTARY_FIELDS, rope
from builders.families.common.keys import ROPE_READS, ConfigKeys
from builders.families.common.plain import GPT_KEYS, Keys, read_plain, with_attention
from builders.families.common.reading import ConfigReader
from builders.families.common.restrictions import heads_as_they_are, mlp_as_it_is
from builders.families.common.rope import read_rope
from builders.families.common.rows import (
    GROUPED,
    TARGET,
    cut,
    embedding_rows,
    fused_qkv,
    linear_rows,
    lm_head_rows,
    norm_rows,
    separate_qkv,
)
from builders.families.common.tensors import linear_tensors, lm_head_tensor, norm_tensors
from builders.families.llama import llama_sizes
from tpforge.model import ModelSpec, RopeSpec
from tpforge.shards.sharding import Cut, Part, Rule, Stage

_NEOX_ACTIVATIONS = ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu", "silu")
_J_ACTIVATIONS = ("gelu_new", "gelu", "gelu_fast", "gelu_pytorch_tanh", "relu", "silu")


_NEOX_KEYS = Keys(epsilon="layer_norm_eps")


def _read_neox(config: ConfigReader) -> ModelSpec:
    config.require(
        "use_parallel_residual", expected=(True,), why="TensorRT-LLM builds NeoX with parallel residuals only"
    )
    # TensorRT-LLM makes all norms with this epsilon, whatever config.json says.
    config.require("layer_norm_eps", expected=(1e-5,), why="TensorRT-LLM's NeoX has 1e-5")
    config.require("attention_bias", expected=(True,), why="TensorRT-LLM's NeoX has biases in its attention")
    model = read_plain(config, _NEOX_KEYS, activations=_NEOX_ACTIVATIONS)
    rope = read_rope(config, types=(), base_key="rotary_emb_base", share_key="rotary_pct")
    changes = {"rope": rope, "position": "rope_gpt_neox", "parallel_residual": True}
    return config.checked(model.model_copy(update=changes))


_NEOX = "gpt_neox.layers.{layer}."
_NEOX_NORMS = (_NEOX + "input_layernorm", _NEOX + "post_attention_layernorm", "gpt_neox.final_layer_norm")

GPT_NEOX = Family(
    name="gpt_neox",
    architectures=("GPTNeoXForCausalLM",),
    keys=ConfigKeys(
        "gpt_neox",
        (
            *_NEOX_KEYS.reads,
            *ROPE_READS,
            "attention_bias",
            "rotary_emb_base",
            "rotary_pct",
            "use_parallel_residual",
        ),
        inert=("is_decoder",),
    ),
    read_spec=_read_neox,
    sizes=llama_sizes,
    source_tensors=(
        SourceTensor("gpt_neox.embed_in.weight", ("vocab", "hidden")),
        *(tensor for norm in _NEOX_NORMS for tensor in norm_tensors(norm)),
        *linear_tensors(_NEOX + "attention.query_key_value", "qkv", "hidden"),
        *linear_tensors(_NEOX + "attention.dense", "hidden", "query"),
        *linear_tensors(_NEOX + "mlp.dense_h_to_4h", "mlp", "hidden"),
        *linear_tensors(_NEOX + "mlp.dense_4h_to_h", "hidden", "mlp"),
        lm_head_tensor("embed_out.weight"),
    ),
    rows=(
        *embedding_rows("gpt_neox.embed_in.weight"),
        *norm_rows(TARGET + "input_layernorm", _NEOX + "input_layernorm"),
        Row(fused_qkv("weight", source=_NEOX + "attention.query_key_value", layout=GROUPED)),
        Row(fused_qkv("bias", source=_NEOX + "attention.query_key_value", layout=GROUPED)),
        *linear_rows(TARGET + "attention.dense", _NEOX + "attention.dense", Cut.QUERY_COLUMNS),
        *norm_rows(TARGET + "post_attention_layernorm", _NEOX + "post_attention_layernorm"),
        *linear_rows(TARGET + "mlp.fc", _NEOX + "mlp.dense_h_to_4h", Cut.MLP_ROWS),
        *linear_rows(TARGET + "mlp.proj", _NEOX + "mlp.dense_4h_to_h", Cut.MLP_COLUMNS),
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
    # TensorRT-LLM makes the last norm with this epsilon, whatever config.json says.
    config.require("layer_norm_epsilon", expected=(1e-5,), why="TensorRT-LLM's GPT-J has 1e-5")
    model = read_plain(config, GPT_KEYS, activations=_J_ACTIVATIONS, default_width=4)
    head_size = model.attention.head_size
    rotary_dim = config.integer("rotary_dim", maximum=head_size)
    changes = {
        "rope": RopeSpec(base=10000.0, partial_factor=rotary_dim / head_size),
        "position": "rope_gptj",
        "parallel_residual": True,
        "lm_head_bias": True,
    }
    # The attention has no biases, unlike the MLP.
    model = with_attention(model, bias=False, output_bias=False)
    return config.checked(model.model_copy(update=changes))


_J = "transformer.h.{layer}."
_J_ATTENTION = {
    name: f"{_J}attn.{short}_proj" for name, short in (("query", "q"), ("key", "k"), ("value", "v"))
}

GPTJ = Family(
    name="gptj",
    architectures=("GPTJForCausalLM",),
    keys=ConfigKeys("gptj", (*GPT_KEYS.reads, "rotary_dim")),
    read_spec=_read_gptj,
    sizes=llama_sizes,
    source_tensors=(
        SourceTensor("transformer.wte.weight", ("vocab", "hidden")),
        *norm_tensors("transformer.ln_f"),
        lm_head_tensor(),
        SourceTensor("lm_head.bias", ("vocab",)),
        *norm_tensors(_J + "ln_1"),
        SourceTensor(_J + "attn.q_proj.weight", ("query", "hidden")),
        SourceTensor(_J + "attn.k_proj.weight", ("kv", "hidden")),
        SourceTensor(_J + "attn.v_proj.weight", ("kv", "hidden")),
        SourceTensor(_J + "attn.out_proj.weight", ("hidden", "query")),
        *linear_tensors(_J + "mlp.fc_in", "mlp", "hidden"),
        *linear_tensors(_J + "mlp.fc_out", "hidden", "mlp"),
    ),
    rows=(
        *embedding_rows("transformer.wte.weight"),
        *norm_rows(TARGET + "input_layernorm", _J + "ln_1"),
        Row(separate_qkv("weight", **_J_ATTENTION)),
        Row(cut(TARGET + "attention.dense.weight", _J + "attn.out_proj.weight", Cut.QUERY_COLUMNS)),
        *linear_rows(TARGET + "mlp.fc", _J + "mlp.fc_in", Cut.MLP_ROWS),
        *linear_rows(TARGET + "mlp.proj", _J + "mlp.fc_out", Cut.MLP_COLUMNS),
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
