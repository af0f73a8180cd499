"""Loads a source as a transformers model in float32: the truth that engines are compared with.

It compares nothing; `parity` and `quality` do.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engines.parity.phimoe_rope import tell_length
from engines.parity.rounded_weights import round_weights
from engines.parity.whole_gguf import parsed_once, whole_gguf
from tpforge.errors import InputRefused
from tpforge.manifest import Manifest


def load_transformers(
    source_path: Path, manifest: Manifest, *, weights: Mapping[str, Tensor] | None = None
) -> Any:
    """The source as a transformers model in float32, its weights rounded as the engine's dtype holds them.

    `weights` are put in their places unrounded, but for vectors.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    rounded = getattr(torch, manifest.dtype.value)
    is_gguf = source_path.suffix == ".gguf"
    attention = _attention(manifest)
    try:
        if weights and not is_gguf:
            model = _with_weights(source_path, weights, rounded=rounded, attention=attention).eval()
            round_weights(model, rounded, vectors_alone=True)
            tell_length(model)
            return model
        with (
            parsed_once() if is_gguf else nullcontext(),
            whole_gguf(source_path) if is_gguf else nullcontext(source_path) as path,
        ):
            where: dict[str, Any] = {"pretrained_model_name_or_path": path}
            if is_gguf:
                where = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
            model = AutoModelForCausalLM.from_pretrained(
                **where, dtype=torch.float32, local_files_only=True, attn_implementation=attention
            )
    # RuntimeError is how it says that shapes are not those of the model.
    except (OSError, ValueError, KeyError, RuntimeError, StrictDataclassError) as error:
        raise InputRefused(f"{source_path}: transformers cannot load it: {error}") from error
    round_weights(model, rounded)
    with torch.no_grad():
        places = dict(model.named_parameters())
        for name, values in (weights or {}).items():
            places[name].copy_(values)
    tell_length(model)
    return model.eval()


def _attention(manifest: Manifest) -> str | None:
    """How transformers shall attend; None is its own choice.

    Its sdpa attention left out the cap of the scores of Gemma 2 without a word: transformers 5.17,
    integrations/sdpa_attention.py.
    """
    return "eager" if manifest.model.attention.logit_softcap is not None else None


def _with_weights(
    source_path: Path, weights: Mapping[str, Tensor], *, rounded: torch.dtype, attention: str | None
) -> Any:
    """The model of the tensors of a directory, some of them replaced; vectors are not rounded yet.

    Transformers itself finds their places, which for experts are not those of the files.
    """
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM

    tensors: dict[str, Tensor] = {}
    for path in sorted(source_path.glob("*.safetensors")):
        tensors |= load_file(path)
    tensors = {
        name: (value.to(rounded) if value.dim() > 1 else value).float()
        for name, value in tensors.items()
        if not _is_replaced(name, weights)
    }
    tensors |= weights
    config = AutoConfig.from_pretrained(source_path, local_files_only=True)
    if hasattr(config, "quantization_config"):
        # The weights are float now.
        del config.quantization_config
    with torch.device("meta"):
        kind = type(AutoModelForCausalLM.from_config(config))
    return kind.from_pretrained(
        None, config=config, state_dict=tensors, dtype=torch.float32, attn_implementation=attention
    )


def _is_replaced(name: str, weights: Mapping[str, Tensor]) -> bool:
    """Whether a tensor is a weight that is given, or belongs to one: its scales, zeros, packed integers."""
    module, _, suffix = name.rpartition(".")
    return suffix != "bias" and f"{module}.weight" in weights
