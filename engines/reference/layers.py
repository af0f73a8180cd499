"""The arithmetic of one decoder layer on one rank: norm, rotary embedding, activation.

It knows neither ranks nor caches; every function maps tensors to tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .config import EngineConfig, EngineError, rope_type

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "relu": functional.relu,
    "gelu": functional.gelu,
    "gelu_new": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: functional.gelu(x, approximate="tanh"),
}


def rms_norm(hidden: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Root-mean-square norm over the last dim, accumulated in float32."""
    if hidden.dtype == torch.float32:
        return functional.rms_norm(hidden, weight.shape, weight, epsilon)
    normed = functional.rms_norm(hidden.float(), weight.shape, None, epsilon)
    return weight * normed.to(hidden.dtype)


def rotary_tables(config: EngineConfig, *, num_positions: int) -> tuple[Tensor, Tensor]:
    """Cosine and *signed* sine, each [num_positions, rotary_dim], float32.

    With the sign of rotate_half folded into the sine, ``rotate`` needs no negation.
    """
    frequencies, factor = _inverse_frequencies(config)
    angles = torch.outer(torch.arange(num_positions, dtype=torch.float32), frequencies)
    cosine, sine = angles.cos() * factor, angles.sin() * factor
    return torch.cat((cosine, cosine), dim=-1), torch.cat((-sine, sine), dim=-1)


def rotate(heads: Tensor, cosine: Tensor, signed_sine: Tensor) -> Tensor:
    """Rotary embedding of [..., heads, head_size] by GPT-NeoX halves; dims past rotary_dim are kept."""
    rotary_dim = cosine.shape[-1]
    if rotary_dim == heads.shape[-1]:
        return torch.addcmul(heads * cosine, heads.roll(rotary_dim // 2, -1), signed_sine)
    turned = rotate(heads[..., :rotary_dim], cosine, signed_sine)
    return torch.cat((turned, heads[..., rotary_dim:]), dim=-1)


def _inverse_frequencies(config: EngineConfig) -> tuple[Tensor, float]:
    """Inverse frequencies [rotary_dim / 2] and the factor on cosine and sine.

    Source: transformers, modeling_rope_utils.py (default, linear, llama3, yarn).
    """
    exponents = torch.arange(0, config.rotary_dim, 2, dtype=torch.int64).float() / config.rotary_dim
    plain = 1.0 / (config.rotary_base**exponents)
    scaling = config.rotary_scaling
    kind = rope_type(scaling)
    if scaling is None or kind == "default":
        return plain, 1.0
    if kind == "linear":
        return plain / scaling["factor"], 1.0
    if kind == "llama3":
        return _llama3(plain, scaling), 1.0
    if kind == "yarn":
        return _yarn(plain, scaling, config)
    raise EngineError(f"rope scaling {kind!r} is not executed by the reference runtime")


def _llama3(plain: Tensor, scaling: dict[str, Any]) -> Tensor:
    factor, old_length = scaling["factor"], scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    wavelength = 2 * math.pi / plain
    smooth = (old_length / wavelength - low) / (high - low)
    blended = (1 - smooth) * plain / factor + smooth * plain
    scaled = torch.where(wavelength > old_length / low, plain / factor, plain)
    medium = (wavelength >= old_length / high) & (wavelength <= old_length / low)
    return torch.where(medium, blended, scaled)


def _yarn(plain: Tensor, scaling: dict[str, Any], config: EngineConfig) -> tuple[Tensor, float]:
    factor, dim = scaling["factor"], config.rotary_dim
    length = scaling.get("original_max_position_embeddings") or config.max_position_embeddings
    unsupported = [key for key in ("mscale", "mscale_all_dim", "truncate") if scaling.get(key) is not None]
    if unsupported:
        raise EngineError(f"yarn with {', '.join(unsupported)} is not executed by the reference runtime")

    def correction(rotations: float) -> float:
        return dim * math.log(length / (rotations * 2 * math.pi)) / (2 * math.log(config.rotary_base))

    low = max(math.floor(correction(scaling.get("beta_fast") or 32)), 0)
    high = min(math.ceil(correction(scaling.get("beta_slow") or 1)), dim - 1)
    ramp = (torch.arange(dim // 2, dtype=torch.float32) - low) / max(high - low, 0.001)
    keep = 1 - ramp.clamp(0, 1)
    frequencies = plain / factor * (1 - keep) + plain * keep
    attention = scaling.get("attention_factor")
    return frequencies, float(attention if attention is not None else 0.1 * math.log(factor) + 1.0)
