"""The KV cache of one rank: one slot a request, slots kept compact so that a batch is a view.

It does not decide who gets a slot; the scheduler does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class LayerCache:
    """Keys and values of one layer, each [slots, KV heads on the rank, positions, head_size].

    With `value_size`, values are the first so many dims of the keys and are not kept apart: latent
    attention. Untouched pages cost no memory: the zeros are mapped lazily.
    """

    def __init__(
        self,
        shape: tuple[int, int, int, int],
        *,
        value_size: int | None = None,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self._is_shared = value_size is not None
        self.values = self.keys[..., :value_size] if self._is_shared else torch.zeros_like(self.keys)
        self.rounding: Callable[[Tensor], Tensor] = lambda values: values
        """What a quantized cache does to keys and values: they are kept as the values they come back as."""

    def write_chunk(self, slot: int, start: int, keys: Tensor, values: Tensor | None = None) -> None:
        """Store [KV heads, tokens, head_size] of one request from position `start` on."""
        stop = start + keys.shape[1]
        self.keys[slot, :, start:stop] = self.rounding(keys)
        if values is not None:
            self.values[slot, :, start:stop] = self.rounding(values)

    def write_tokens(
        self, slots: Tensor, positions: Tensor, keys: Tensor, values: Tensor | None = None
    ) -> None:
        """Store one token, [requests, KV heads, head_size], for each of `slots`."""
        self.keys[slots, :, positions] = self.rounding(keys)
        if values is not None:
            self.values[slots, :, positions] = self.rounding(values)

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of a slot to another slot."""
        self.keys[target, :, :length] = self.keys[source, :, :length]
        if not self._is_shared:
            self.values[target, :, :length] = self.values[source, :, :length]


class KvCache:
    """The caches of all layers of a rank."""

    def __init__(self, layers: Sequence[LayerCache]) -> None:
        self._layers = tuple(layers)

    def largest(self) -> list[float]:
        """The largest size of a key or value that each layer holds."""
        return [max(float(layer.keys.abs().max()), float(layer.values.abs().max())) for layer in self._layers]

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of a slot to another slot, in every layer."""
        for layer in self._layers:
            layer.move(source, target, length)
