"""What TensorRT-LLM's model definition of each architecture fixes and config.json does not state: a table.

It reads no file; `config` puts the row together with what config.json does say.

**Tensors** of every rank file, under ``transformer.``: ``vocab_embedding.weight`` (first stage);
``layers.N.`` with N local to the stage: ``input_layernorm``, ``attention.qkv``, ``attention.dense``, the
norm before the MLP (``mlp_norm`` of the row), ``mlp.fc``, ``mlp.gate`` (kind "gated" only), ``mlp.proj``;
``ln_f`` and, without the prefix, ``lm_head`` (last stage). ``.bias`` stands beside any of them where the
model has one: sharded like the rows for qkv, fc, gate and lm_head, whole on every rank for dense and proj
(added once). Further, where the row or config.json asks for it: ``position_embedding.weight``
(learned_absolute, without OPT's first two rows), ``ln_embed`` (BLOOM), ``attention.q_layernorm`` and
``k_layernorm`` (qk_layernorm: [head_size]; Cohere: [heads of the rank, head_size]),
``pre_feedforward_layernorm`` and ``post_feedforward_layernorm`` (inter_layernorms).

**MLP kinds**: gated: fc is activated and multiplied by gate (Hugging Face's gate_proj and up_proj); fused:
fc = [up; gate] of the rank, the second half activated; plain: fc, activation, proj.
**Experts**, in the layers that hold ``mlp.router.weight`` [experts, hidden] float32: ``mlp.fc.weight``
[experts of the rank, 2 x width, hidden] = [up; gate] each, ``mlp.proj.weight`` [.., hidden, width];
``mlp.shared_expert.fc.weight`` = [up; gate], ``mlp.shared_expert.proj.weight``,
``mlp.shared_expert_gate.weight`` [1, hidden].
**Latent attention** (DeepSeek V2): ``attention.fused_a.weight`` = [q_a; kv_a with rope] whole,
``attention.q_a_layernorm``, ``attention.kv_a_layernorm``, and without ``.weight``: ``attention.q_b_proj``,
``attention.kv_b_proj`` = [all k_nope; all v] of the rank's heads, ``attention.k_b_proj_trans``
[heads x kv_lora_rank, qk_nope_head_dim]. Without q_lora_rank fused_a has no q_a and q_b_proj is q_proj.

**config.json** (all of the base keys; of the others those the model needs): position_embedding_type
(rope_gpt_neox, rope_gptj, long_rope, learned_absolute, alibi, alibi_with_scale), rotary_base,
rotary_embedding_dim, rotary_scaling, rope_local_base_freq, longrope_scaling_short_factors and
_long_factors, original_max_position_embeddings, longrope_short_mscale and _long_mscale, qk_layernorm,
clip_qkv, alibi_bias_max, q_scaling (scores are divided by it), attention_multiplier (scores are
multiplied by it), query_pre_attn_scalar (replaces head_size in the scale), attn_logit_softcapping,
final_logit_softcapping, embedding_scale or embedding_multiplier, residual_multiplier,
output_multiplier_scale (on the logits), moe, moe_intermediate_size or moe_inter_size,
moe_shared_expert_intermediate_size, q_lora_rank, kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim,
v_head_dim, inter_layernorms, new_decoder_architecture, parallel_attention, num_ln_in_parallel_attn,
rmsnorm.
Sliding windows are not in the format (TensorRT-LLM takes them at run time): engine.json's model has them.
hidden_act "gelu" is the exact one, as in Hugging Face, but where the row says tanh.
Source: TensorRT-LLM 1.2, tensorrt_llm/models/*/model.py, layers/{attention,mlp,moe}.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Literal

CheckpointConfig = dict[str, Any]


class Residual(Enum):
    """How the two blocks of a layer are added to the hidden states."""

    SEQUENTIAL = "sequential"
    """Attention is added first, the MLP reads the sum."""
    PARALLEL = "parallel"
    """Both read the same hidden states, and are added together."""
    SANDWICH = "sandwich"
    """Sequential, with a norm before and after each block (Gemma 2 and 3)."""


@dataclass(frozen=True)
class Architecture:
    """One row: what the model definition fixes. `mlp_norm` None: the MLP reads what attention reads.

    `latent` stands for multi-head latent attention, `tanh_gelu` for activations that say "gelu" and mean its
    tanh approximation, `sqrt_embedding` for embeddings times sqrt(hidden_size), `head_norms` for norms of
    queries and keys that have a weight for each head. `qk_norm` None: config.json's qk_layernorm decides.
    """

    names: tuple[str, ...]
    norm: Literal["rmsnorm", "layernorm"]
    mlp: Literal["gated", "fused", "plain"]
    norm_bias: bool = False
    residual: Residual = Residual.SEQUENTIAL
    mlp_norm: str | None = "post_layernorm"
    embedding_norm: str | None = None
    sqrt_embedding: bool = False
    tanh_gelu: bool = False
    qk_norm: bool | None = None
    head_norms: bool = False
    latent: bool = False
    position: str | None = None
    variant: Callable[[Architecture, CheckpointConfig], Architecture] = lambda row, config: row


def _falcon(row: Architecture, config: CheckpointConfig) -> Architecture:
    """Falcon 40B has two norms side by side, 7B one, the RefinedWeb models are sequential."""
    new = config.get("new_decoder_architecture", False)
    num_norms = config.get("num_ln_in_parallel_attn")
    if new and num_norms in (None, 2):
        return replace(row, residual=Residual.PARALLEL, mlp_norm="mlp_layernorm")
    if new or config.get("parallel_attention", False):
        return replace(row, residual=Residual.PARALLEL, mlp_norm=None)
    return row


def _gemma(row: Architecture, config: CheckpointConfig) -> Architecture:
    sandwich = config.get("inter_layernorms", False)
    return replace(row, residual=Residual.SANDWICH) if sandwich else row


def _chatglm(row: Architecture, config: CheckpointConfig) -> Architecture:
    return row if config.get("rmsnorm", True) else replace(row, norm="layernorm", norm_bias=True)


_PARALLEL = Residual.PARALLEL
_GPT_NAMES = (
    "GPTForCausalLM",
    "GPT2LMHeadModel",
    "GPT2LMHeadCustomModel",
    "GPTBigCodeForCausalLM",
    "Starcoder2ForCausalLM",
    "NemotronForCausalLM",
)
_LLAMA_NAMES = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "MixtralForCausalLM",
    "InternLMForCausalLM",
    "InternLM2ForCausalLM",
    "GraniteForCausalLM",
    "GraniteMoeForCausalLM",
)
_QWEN_NAMES = (
    "QWenLMHeadModel",
    "QWenForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen2MoeForCausalLM",
    "Qwen3ForCausalLM",
    "Qwen3MoeForCausalLM",
)
_PHIMOE_NAMES = ("PhiMoEForCausalLM", "PhimoeForCausalLM")
_FALCON_NAMES = ("FalconForCausalLM", "RWForCausalLM")
_MPT_NAMES = ("MPTForCausalLM", "MptForCausalLM")
_BAICHUAN_NAMES = ("BaichuanForCausalLM", "BaiChuanForCausalLM")
_CHATGLM_NAMES = ("ChatGLMModel", "ChatGLMForCausalLM", "ChatGLMForConditionalGeneration")
_GEMMA = Architecture(("GemmaForCausalLM",), "rmsnorm", "gated", sqrt_embedding=True, variant=_gemma)

# fmt: off
_TABLE = (
    Architecture(_LLAMA_NAMES,              "rmsnorm",   "gated"),
    Architecture(_QWEN_NAMES,               "rmsnorm",   "gated"),
    _GEMMA,
    replace(_GEMMA, names=("Gemma2ForCausalLM",)),
    replace(_GEMMA, names=("Gemma3ForCausalLM",), qk_norm=True),
    Architecture(("PhiForCausalLM",),       "layernorm", "plain", norm_bias=True,
                 residual=_PARALLEL, mlp_norm=None),
    Architecture(("Phi3ForCausalLM",),      "rmsnorm",   "fused"),
    Architecture(_PHIMOE_NAMES,             "layernorm", "fused", norm_bias=True),
    # Nemotron's checkpoint holds the weight of its norms plus one.
    Architecture(_GPT_NAMES,                "layernorm", "plain", norm_bias=True),
    Architecture(("GPTNeoXForCausalLM",),   "layernorm", "plain", norm_bias=True,
                 residual=_PARALLEL, mlp_norm="post_attention_layernorm"),
    Architecture(("GPTJForCausalLM",),      "layernorm", "plain", norm_bias=True,
                 residual=_PARALLEL, mlp_norm=None, position="rope_gptj"),
    Architecture(("OPTForCausalLM",),       "layernorm", "plain", norm_bias=True,
                 position="learned_absolute"),
    Architecture(("BloomForCausalLM",),     "layernorm", "plain", norm_bias=True,
                 embedding_norm="ln_embed", tanh_gelu=True, position="alibi"),
    Architecture(_FALCON_NAMES,             "layernorm", "plain", norm_bias=True, variant=_falcon),
    Architecture(_MPT_NAMES,                "layernorm", "plain", position="alibi"),
    Architecture(_BAICHUAN_NAMES,           "rmsnorm",   "gated"),
    Architecture(_CHATGLM_NAMES,            "rmsnorm",   "fused", position="rope_gptj", variant=_chatglm),
    Architecture(("CohereForCausalLM",),    "layernorm", "gated", residual=_PARALLEL, mlp_norm=None,
                 head_norms=True, position="rope_gptj"),
    Architecture(("DeepseekForCausalLM",),  "rmsnorm",   "gated"),
    Architecture(("DeepseekV2ForCausalLM",), "rmsnorm",  "gated", latent=True),
    Architecture(("DbrxForCausalLM",),      "layernorm", "gated"),
)
# fmt: on

ARCHITECTURES: dict[str, Architecture] = {name: row for row in _TABLE for name in row.names}
assert len(ARCHITECTURES) == sum(len(row.names) for row in _TABLE), "an architecture stands in two rows"


def resolve(name: str, config: CheckpointConfig) -> Architecture | None:
    """The row of an architecture for this very config.json, or None when it is not executed."""
    row = ARCHITECTURES.get(name)
    return None if row is None else row.variant(row, config)
