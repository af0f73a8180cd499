"""The dense feed-forward block of one layer on one rank. Experts are in `experts`."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional

from ..config import EngineConfig
from ..loading import RankFile
from .norms import Activation, find_activation


class PlainMlp:
    """proj(activation(fc(x)))."""

    def __init__(self, file: RankFile, name: str, config: EngineConfig) -> None:
        width, hidden = config.intermediate_size // config.tp_size, config.hidden_size
        self._activation = activation_of(config)
        self._fc = file.read(f"{name}.fc.weight", (width, hidden))
        self._fc_bias = file.read_if(f"{name}.fc.bias", (width,))
        self._proj = file.read(f"{name}.proj.weight", (hidden, width))
        self.proj_bias = file.read_if(f"{name}.proj.bias", (hidden,))

    def __call__(self, hidden: Tensor) -> Tensor:
        """The rank's part of the block, [tokens, hidden], without proj's bias."""
        inner = self._activation(functional.linear(hidden, self._fc, self._fc_bias))
        return functional.linear(inner, self._proj)


class GatedMlp:
    """proj(activation(gate(x)) * up(x)); gate and up are one matrix, to be one product.

    TensorRT-LLM calls Hugging Face's gate_proj "fc" and its up_proj "gate", but fused in one "fc" the
    order is [up; gate].
    """

    def __init__(
        self, file: RankFile, name: str, config: EngineConfig, *, width: int, is_fused: bool
    ) -> None:
        hidden = config.hidden_size
        self._activation = activation_of(config)
        if is_fused:
            up, gate = file.read(f"{name}.fc.weight", (2 * width, hidden)).chunk(2)
            bias = file.read_if(f"{name}.fc.bias", (2 * width,))
            self._bias = None if bias is None else bias.roll(width)
        else:
            gate = file.read(f"{name}.fc.weight", (width, hidden))
            up = file.read(f"{name}.gate.weight", (width, hidden))
            self._bias = _join(file.read_if(f"{name}.{part}.bias", (width,)) for part in ("fc", "gate"))
        self._gate_up = torch.cat((gate, up))
        self._proj = file.read(f"{name}.proj.weight", (hidden, width))
        self.proj_bias = file.read_if(f"{name}.proj.bias", (hidden,))

    def __call__(self, hidden: Tensor) -> Tensor:
        """The rank's part of the block, [tokens, hidden], without proj's bias."""
        gate, up = functional.linear(hidden, self._gate_up, self._bias).chunk(2, dim=-1)
        return functional.linear(self._activation(gate) * up, self._proj)


DenseMlp = PlainMlp | GatedMlp


def read_dense_mlp(file: RankFile, name: str, config: EngineConfig) -> DenseMlp:
    """The dense block of a layer, of the kind that the architecture has."""
    if config.form.mlp == "plain":
        return PlainMlp(file, name, config)
    width = config.intermediate_size // config.tp_size
    return GatedMlp(file, name, config, width=width, is_fused=config.form.mlp == "fused")


def activation_of(config: EngineConfig) -> Activation:
    """The activation that config.json and the architecture name."""
    return find_activation(config.activation, tanh_gelu=config.form.tanh_gelu)


def _join(biases: Iterable[Tensor | None]) -> Tensor | None:
    held = [bias for bias in biases if bias is not None]
    return torch.cat(held) if len(held) == 2 else None
