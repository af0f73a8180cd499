"""A tiny checkpoint of every model family, with random weights, as transformers itself would save it.

It converts nothing. A family that transformers has no class for is exported from its nearest twin: the same
function under other names (`FamilyCase.export`), so that the twin's logits are still the truth.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from tpforge.shards.mapping import Mapping

Tensors = dict[str, torch.Tensor]
Export = Callable[[Tensors, dict[str, Any]], tuple[Tensors, dict[str, Any]]]

SIZES: dict[str, Any] = {
    "vocab_size": 131,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
"""What the tiny models share, where their configs spell it so. 131 is odd: every tp pads the vocabulary."""


@dataclass(frozen=True)
class FamilyCase:
    """A tiny model of a family.

    `settings` are the fields of its transformers config beside SIZES; `twin` says, for a family without a
    transformers class, whose class computes the same; `adapt` changes the twin where it does not quite, and
    `export` turns its tensors and config into the family's. `pads` is false where heads cannot be padded
    exactly, or TensorRT-LLM would misread the result (restrictions of the family).
    """

    name: str
    model_type: str
    settings: dict[str, Any]
    twin: str | None = None
    adapt: Callable[[PreTrainedModel], None] | None = None
    export: Export | None = None
    moe_ep: int | None = None
    pads: bool = True
    tolerance: float = 2e-5

    def __str__(self) -> str:
        return self.name

    def mappings(self) -> list[Mapping]:
        """tp 1, 2, 4, 8, uneven pipeline stages, padding where it is exact, and experts divided."""
        sizes = [Mapping(tp_size=tp) for tp in (1, 2, 4, 8)] + [Mapping(tp_size=2, pp_size=2)]
        if self.pads:
            sizes.append(Mapping(tp_size=3))
        if self.moe_ep is not None:
            sizes += [
                Mapping(tp_size=4, moe_ep_size=self.moe_ep),
                Mapping(tp_size=self.moe_ep, moe_ep_size=self.moe_ep),
            ]
        return sizes


def tiny_config(case: FamilyCase) -> PretrainedConfig:
    """The transformers config of a case."""
    return AutoConfig.for_model(case.model_type, **{**SIZES, **case.settings})


def tiny_model(case: FamilyCase, *, seed: int = 0, config: PretrainedConfig | None = None) -> PreTrainedModel:
    """The model in float32, with weights large enough that every part of it shows in the logits.

    `config` is that of the case, unless another one is given.
    """
    torch.manual_seed(seed)
    config = config or tiny_config(case)
    # sdpa, the default of transformers 5.17, leaves out the cap of the scores.
    attention = "eager" if getattr(config, "attn_logit_softcapping", None) else None
    model = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation=attention
    ).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                one = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
                centre = 0.0 if case.model_type.startswith(("gemma", "nemotron")) else one
                parameter.copy_(centre + 0.2 * noise)
            else:
                parameter.copy_(noise / math.sqrt(parameter.shape[-1]))
    if case.adapt is not None:
        case.adapt(model)
    return model


def write_tiny_family(folder: Path, case: FamilyCase, *, seed: int = 0) -> PreTrainedModel:
    """Save a case as a Hugging Face directory; give the model whose logits are the truth."""
    model = tiny_model(case, seed=seed)
    model.save_pretrained(folder)
    if case.export is not None:
        (weights,) = folder.glob("*.safetensors")
        config = json.loads((folder / "config.json").read_text())
        tensors, config = case.export(load_file(weights), config)
        save_file({name: one.contiguous() for name, one in tensors.items()}, weights, {"format": "pt"})
        (folder / "config.json").write_text(json.dumps(config, indent=2))
    return model
