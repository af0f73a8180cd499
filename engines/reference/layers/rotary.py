"""Rotary position embeddings: frequencies of every kind of scaling, tables over positions, rotation.

It knows no attention; which layers take which table is decided in `places`.
Source of all frequencies: transformers, modeling_rope_utils.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import EngineError
from ..fields import LongRope, rope_type, yarn_scale

Rows = tuple[Tensor, Tensor]
"""Cosine and signed sine of some positions, each [positions, 1, rotary dim]."""


@dataclass(frozen=True)
class Rope:
    """A rotation: `dim` of each head is turned; `trained_length` is what the model was trained on.

    Interleaved (GPT-J) pairs neighbours, else (GPT-NeoX) the halves of the rotated dims.
    """

    base: float
    dim: int
    trained_length: int
    scaling: dict[str, Any] | None = None
    longrope: LongRope | None = None
    interleaved: bool = False


class RotaryTable:
    """Cosine and signed sine of every position.

    With the sign of the turned half folded into the sine, `rotate` needs no negation.
    """

    def __init__(self, rope: Rope, *, num_positions: int, device: torch.device, dtype: torch.dtype) -> None:
        self._rope, self._num_positions = rope, num_positions
        self._device, self._dtype = device, dtype
        # Where frequencies depend on the length: those of a prompt of just that many tokens.
        self._longer: dict[int, Rows] = {}
        self._threshold = _threshold(rope)
        self._rows = self._table(_growing_angles(rope, num_positions))

    def rows(self, positions: Tensor, *, length: int | None) -> Rows:
        """Cosines and sines of `positions` of a prompt of `length` tokens; None: of generated tokens.

        As transformers has it, all positions of a long prompt get the frequencies of its length; generated
        tokens get those of their own position, while the keys before them stay as they are.
        """
        cosine, sine = self._rows
        if self._threshold is not None and length is not None and length > self._threshold:
            cosine, sine = self._longer_rows(length)
        return cosine[positions], sine[positions]

    def _longer_rows(self, length: int) -> Rows:
        key = self._num_positions if self._rope.longrope else length
        if key not in self._longer:
            self._longer.clear()
            frequencies, factor = _frequencies(self._rope, length=length)
            self._longer[key] = self._table((_angles(frequencies, self._num_positions), factor))
        return self._longer[key]

    def _table(self, angles: tuple[Tensor, Tensor | float]) -> Rows:
        cosine, sine = angles[0].cos() * angles[1], angles[0].sin() * angles[1]
        if self._rope.interleaved:
            pairs = cosine.repeat_interleave(2, -1), torch.stack((-sine, sine), dim=-1).flatten(1)
        else:
            pairs = torch.cat((cosine, cosine), dim=-1), torch.cat((-sine, sine), dim=-1)
        first, second = (table.to(self._device, self._dtype)[:, None, :] for table in pairs)
        return first, second


def rotate(heads: Tensor, cosine: Tensor, signed_sine: Tensor) -> Tensor:
    """Turn [..., heads, head_size] by halves (GPT-NeoX); dims past the rotary ones are kept."""
    rotary_dim = cosine.shape[-1]
    if rotary_dim == heads.shape[-1]:
        return torch.addcmul(heads * cosine, heads.roll(rotary_dim // 2, -1), signed_sine)
    turned = rotate(heads[..., :rotary_dim], cosine, signed_sine)
    return torch.cat((turned, heads[..., rotary_dim:]), dim=-1)


def rotate_pairs(heads: Tensor, cosine: Tensor, signed_sine: Tensor) -> Tensor:
    """Turn [..., heads, head_size] by neighbouring pairs (GPT-J); dims past the rotary ones are kept."""
    rotary_dim = cosine.shape[-1]
    if rotary_dim == heads.shape[-1]:
        swapped = heads.reshape(*heads.shape[:-1], -1, 2).flip(-1).flatten(-2)
        return torch.addcmul(heads * cosine, swapped, signed_sine)
    turned = rotate_pairs(heads[..., :rotary_dim], cosine, signed_sine)
    return torch.cat((turned, heads[..., rotary_dim:]), dim=-1)


def _threshold(rope: Rope) -> int | None:
    """The length up to which frequencies do not depend on it; None when they never do."""
    if rope.longrope is not None:
        return rope.longrope.original_length
    return rope.trained_length if rope_type(rope.scaling) == "dynamic" else None


def _angles(frequencies: Tensor, num_positions: int) -> Tensor:
    return torch.outer(torch.arange(num_positions, dtype=torch.float32), frequencies)


def _growing_angles(rope: Rope, num_positions: int) -> tuple[Tensor, Tensor | float]:
    """Angles [num_positions, dim / 2] of tokens that come one by one, and the factors on their cosines."""
    frequencies, factor = _frequencies(rope, length=1)
    angles = _angles(frequencies, num_positions)
    threshold = _threshold(rope)
    if threshold is None or threshold >= num_positions:
        return angles, factor
    factors = torch.full((num_positions, 1), factor)
    if rope.longrope is not None:
        longer, factors[threshold:] = _frequencies(rope, length=threshold + 1)
        angles[threshold:] = _angles(longer, num_positions)[threshold:]
        return angles, factors
    for position in range(threshold, num_positions):
        angles[position] = position * _frequencies(rope, length=position + 1)[0]
    return angles, factors


def _frequencies(rope: Rope, *, length: int) -> tuple[Tensor, float]:
    """Inverse frequencies [dim / 2] for a sequence of `length`, and the factor on cosine and sine."""
    exponents = torch.arange(0, rope.dim, 2, dtype=torch.int64).float() / rope.dim
    plain = 1.0 / (rope.base**exponents)
    scaling = rope.scaling
    kind = rope_type(scaling)
    if rope.longrope is not None:
        return _longrope(rope.longrope, rope.base**exponents, length=length)
    if scaling is None or kind == "default":
        return plain, 1.0
    if kind == "linear":
        return plain / scaling["factor"], 1.0
    if kind == "dynamic":
        return 1.0 / (_grown_base(rope, scaling["factor"], length=length) ** exponents), 1.0
    if kind == "llama3":
        return _llama3(plain, scaling), 1.0
    if kind == "yarn":
        return _yarn(rope.base**exponents, scaling, rope)
    raise EngineError(f"rope scaling {kind!r} is not executed by the reference runtime")


def _grown_base(rope: Rope, factor: float, *, length: int) -> Tensor | float:
    """The base for a sequence of `length`, in float32 where it grows, as transformers has it: far positions
    show the last bit of a frequency.
    """
    if length <= rope.trained_length:
        return rope.base
    stretch = factor * torch.tensor(length) / rope.trained_length
    grown: Tensor = rope.base * (stretch - (factor - 1)) ** (rope.dim / (rope.dim - 2))
    return grown


def _longrope(longrope: LongRope, periods: Tensor, *, length: int) -> tuple[Tensor, float]:
    is_long = length > longrope.original_length
    divisors = torch.tensor(longrope.long_factors if is_long else longrope.short_factors)
    return 1.0 / (divisors * periods), longrope.long_scale if is_long else longrope.short_scale


def _llama3(plain: Tensor, scaling: dict[str, Any]) -> Tensor:
    factor, old_length = scaling["factor"], scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    wavelength = 2 * math.pi / plain
    smooth = (old_length / wavelength - low) / (high - low)
    blended = (1 - smooth) * plain / factor + smooth * plain
    scaled = torch.where(wavelength > old_length / low, plain / factor, plain)
    medium = (wavelength >= old_length / high) & (wavelength <= old_length / low)
    return torch.where(medium, blended, scaled)


def _yarn(periods: Tensor, scaling: dict[str, Any], rope: Rope) -> tuple[Tensor, float]:
    factor, dim = scaling["factor"], rope.dim
    length = scaling.get("original_max_position_embeddings") or rope.trained_length

    def correction(rotations: float) -> float:
        return dim * math.log(length / (rotations * 2 * math.pi)) / (2 * math.log(rope.base))

    low, high = correction(scaling.get("beta_fast") or 32), correction(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    ramp = (torch.arange(dim // 2, dtype=torch.float32) - low) / (high - low if high != low else 0.001)
    keep = 1 - ramp.clamp(0, 1)
    # In transformers' order, to the last bit.
    return 1.0 / (factor * periods) * (1 - keep) + 1.0 / periods * keep, _yarn_factor(scaling)


def _yarn_factor(scaling: dict[str, Any]) -> float:
    stated = scaling.get("attention_factor")
    if stated is not None:
        return float(stated)
    mscale, all_dims = scaling.get("mscale"), scaling.get("mscale_all_dim")
    if mscale and all_dims:
        return yarn_scale(scaling["factor"], mscale) / yarn_scale(scaling["factor"], all_dims)
    return yarn_scale(scaling["factor"])
