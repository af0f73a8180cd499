"""The arithmetic that every block shares: norms and activations.

It knows neither ranks nor caches; every function maps tensors to tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

Activation = Callable[[Tensor], Tensor]


def _tanh_gelu(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


def _squared_relu(x: Tensor) -> Tensor:
    return functional.relu(x).square()


ACTIVATIONS: dict[str, Activation] = {
    "gelu": functional.gelu,
    "gelu_fast": _tanh_gelu,
    "gelu_new": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "geglu": functional.gelu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": functional.relu,
    "silu": functional.silu,
    "squared-relu": _squared_relu,
    "swiglu": functional.silu,
}
"""By hidden_act; of a gated one (swiglu, geglu), what is done to the gate's half."""


def find_activation(name: str, *, tanh_gelu: bool) -> Activation:
    """The activation of a hidden_act; `tanh_gelu` for architectures whose "gelu" is the approximation."""
    return _tanh_gelu if tanh_gelu and name == "gelu" else ACTIVATIONS[name]


@dataclass(frozen=True)
class RmsNorm:
    """Root-mean-square norm over the last dim, accumulated in float32."""

    weight: Tensor
    epsilon: float

    def __call__(self, hidden: Tensor) -> Tensor:
        """The normalized `hidden`, of its shape."""
        if hidden.dtype == torch.float32:
            return functional.rms_norm(hidden, self.weight.shape, self.weight, self.epsilon)
        normed = functional.rms_norm(hidden.float(), self.weight.shape, None, self.epsilon)
        return self.weight * normed.to(hidden.dtype)


@dataclass(frozen=True)
class LayerNorm:
    """Mean and variance norm over the last dim, accumulated in float32 by torch.

    A weight [heads, head_size] norms each head by itself with weights of its own (Cohere).
    """

    weight: Tensor
    bias: Tensor | None
    epsilon: float

    def __call__(self, hidden: Tensor) -> Tensor:
        """The normalized `hidden`, of its shape."""
        size = self.weight.shape[-1:]
        if self.weight.ndim == 1:
            return functional.layer_norm(hidden, size, self.weight, self.bias, self.epsilon)
        return functional.layer_norm(hidden, size, None, None, self.epsilon) * self.weight


Norm = RmsNorm | LayerNorm
