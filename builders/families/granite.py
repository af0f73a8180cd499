"""Granite: Llama with constant factors on the embedding, the scores, the blocks and the logits.

Not here: Granite with experts or with Mamba layers.
Source: TensorRT-LLM 1.2, models/llama/config.py; transformers 5, models/granite.
"""

from __future__ import annotations

from dataclasses import replace

from builders.families.common.keys import ConfigKeys
from builders.families.common.reading import ConfigReader
from builders.families.llama import LLAMA, llama_reads, read_llama_like
from tpforge.model import ModelSpec, MultiplierSpec


def _read(config: ConfigReader) -> ModelSpec:
    config.require("mlp_bias", expected=(False,), why="biases of the MLP are not supported")
    bias = config.flag("attention_bias")
    model = read_llama_like(config, bias=bias, output_bias=bias)
    # Transformers' own default is 1, not 1 / sqrt(head_size).
    scale = config.number("attention_multiplier")
    multipliers = MultiplierSpec(
        embedding=config.number("embedding_multiplier"),
        residual=config.number("residual_multiplier"),
        logits=1.0 / config.number("logits_scaling"),
    )
    attention = model.attention.model_copy(update={"scale": scale})
    return config.checked(model.model_copy(update={"attention": attention, "multipliers": multipliers}))


_READS = llama_reads(
    "attention_bias",
    "attention_multiplier",
    "embedding_multiplier",
    "logits_scaling",
    "mlp_bias",
    "residual_multiplier",
)

GRANITE = replace(
    LLAMA,
    name="granite",
    architectures=("GraniteForCausalLM",),
    keys=ConfigKeys("granite", _READS),
    read_spec=_read,
)
