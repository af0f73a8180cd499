"""InternLM 2: Llama with a fused wqkv, under names of its own.

Source: TensorRT-LLM 1.2, models/llama/convert.py; the remote code of internlm2-7b.
"""

from __future__ import annotations

from dataclasses import replace

from builders.families.common.base import Dropped, Row, SourceTensor
from builders.families.common.keys import ConfigKeys
from builders.families.common.reading import ConfigReader
from builders.families.common.rows import (
    GROUPED,
    TARGET,
    biased,
    copy,
    cut,
    embedding_rows,
    fused_qkv,
    gated_mlp_rows,
    lm_head_rows,
    output_biased,
)
from builders.families.common.tensors import if_biased, lm_head_tensor
from builders.families.llama import LLAMA, llama_reads, read_llama_like
from tpforge.model import ModelSpec
from tpforge.shards.sharding import Cut, Stage

_EMBEDDING = "model.tok_embeddings.weight"
_LAYER = "model.layers.{layer}."
_ATTENTION = _LAYER + "attention."
_MLP = _LAYER + "feed_forward."


def _read(config: ConfigReader) -> ModelSpec:
    bias = config.flag("bias")
    return config.checked(read_llama_like(config, bias=bias, output_bias=bias))


INTERNLM2 = replace(
    LLAMA,
    name="internlm2",
    architectures=("InternLM2ForCausalLM",),
    keys=ConfigKeys("internlm2", llama_reads("bias"), inert=("attn_implementation",)),
    read_spec=_read,
    source_tensors=(
        SourceTensor(_EMBEDDING, ("vocab", "hidden")),
        SourceTensor(_LAYER + "attention_norm.weight", ("hidden",)),
        SourceTensor(_ATTENTION + "wqkv.weight", ("qkv", "hidden")),
        SourceTensor(_ATTENTION + "wqkv.bias", ("qkv",), when=if_biased),
        SourceTensor(_ATTENTION + "wo.weight", ("hidden", "query")),
        SourceTensor(_ATTENTION + "wo.bias", ("hidden",), when=if_biased),
        SourceTensor(_LAYER + "ffn_norm.weight", ("hidden",)),
        SourceTensor(_MLP + "w1.weight", ("mlp", "hidden")),
        SourceTensor(_MLP + "w3.weight", ("mlp", "hidden")),
        SourceTensor(_MLP + "w2.weight", ("hidden", "mlp")),
        SourceTensor("model.norm.weight", ("hidden",)),
        lm_head_tensor("output.weight"),
    ),
    rows=(
        *embedding_rows(_EMBEDDING),
        Row(copy(TARGET + "input_layernorm.weight", _LAYER + "attention_norm.weight")),
        Row(fused_qkv("weight", source=_ATTENTION + "wqkv", layout=GROUPED)),
        Row(fused_qkv("bias", source=_ATTENTION + "wqkv", layout=GROUPED), when=biased),
        Row(cut(TARGET + "attention.dense.weight", _ATTENTION + "wo.weight", Cut.QUERY_COLUMNS)),
        Row(copy(TARGET + "attention.dense.bias", _ATTENTION + "wo.bias"), when=output_biased),
        Row(copy(TARGET + "post_layernorm.weight", _LAYER + "ffn_norm.weight")),
        *gated_mlp_rows(gate=_MLP + "w1", up=_MLP + "w3", down=_MLP + "w2"),
        Row(copy("transformer.ln_f.weight", "model.norm.weight", stage=Stage.LAST)),
        *lm_head_rows("output.weight", embedding=_EMBEDDING),
    ),
    dropped=(
        Dropped(
            r"model\.layers\.\d+\.attention\.rotary_emb\.inv_freq",
            "recomputed by the runtime from rotary_base and rotary_scaling",
        ),
    ),
)
