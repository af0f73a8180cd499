"""A form of layer: its transformers model, and the whole checkpoint under TensorRT-LLM's names.

No family's table takes part: names and orders were read from TensorRT-LLM's own model definitions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from tests.support.checkpoints.rank_files import Whole

HIDDEN, LAYERS, HEADS, KV_HEADS, SIZE, WIDTH, VOCAB = 64, 2, 4, 2, 16, 96, 131
State = dict[str, Tensor]
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "intermediate_size": WIDTH,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}


@dataclass(frozen=True)
class Case:
    """A tiny transformers model, and the same as a checkpoint: tensors of a layer, config.json's keys."""

    name: str
    model_type: str
    settings: dict[str, Any]
    architecture: str
    config: dict[str, Any]
    layer: Callable[[State], Whole]
    prefix: str = "model.layers.{}."
    outer: dict[str, str] = field(
        default_factory=lambda: {
            "transformer.vocab_embedding.weight": "model.embed_tokens.weight",
            "transformer.ln_f": "model.norm",
            "lm_head": "lm_head",
        }
    )
    model: dict[str, Any] = field(default_factory=dict)
    plus_one: bool = False
    experts: bool = False

    def __str__(self) -> str:
        return self.name


def norms(state: State, **names: str) -> Whole:
    """Target = source, with the bias where there is one."""
    found: Whole = {}
    for target, source in names.items():
        for part in ("weight", "bias"):
            if f"{source}.{part}" in state:
                found[f"{target}.{part}"] = state[f"{source}.{part}"]
    return found


def tiny_model(case: Case) -> Any:
    """The transformers model, with weights large enough that every part of it shows in the logits."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(case.model_type, **{**SIZES, **case.settings})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                is_weight = name.endswith("weight") and not case.plus_one
                parameter.copy_((1.0 if is_weight else 0.0) + 0.2 * noise)
            else:
                parameter.copy_(noise / math.sqrt(parameter.shape[-1]))
    return model


def whole_checkpoint(case: Case, state: State) -> Whole:
    """The tensors of the whole model under TensorRT-LLM's names."""
    whole: Whole = {}
    for target, source in case.outer.items():
        if target.endswith(".weight"):
            whole[target] = (
                state[source][2:] if case.model_type == "opt" and "position" in target else state[source]
            )
        else:
            whole |= norms(state, **{target: source})
    for layer in range(LAYERS):
        prefix = case.prefix.format(layer)
        held = {name.removeprefix(prefix): one for name, one in state.items() if name.startswith(prefix)}
        whole |= {f"transformer.layers.{layer}.{name}": one for name, one in case.layer(held).items()}
    if case.plus_one:
        for name, value in whole.items():
            if ("norm" in name and name.endswith(".weight")) or name == "transformer.ln_f.weight":
                assert isinstance(value, Tensor)
                whole[name] = value + 1
    return whole


def checkpoint_config(case: Case) -> dict[str, Any]:
    base = {
        "architecture": case.architecture,
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_size": SIZE,
        "intermediate_size": WIDTH,
        "norm_epsilon": 1e-5,
        "position_embedding_type": "rope_gpt_neox",
        "max_position_embeddings": 128,
        "rotary_embedding_dim": SIZE,
    }
    return base | case.config
