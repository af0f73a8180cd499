"""The KV cache of one rank: one slot a request, slots kept compact so that a batch is a view.

It does not decide who gets a slot; the scheduler does.
"""

from __future__ import annotations

import torch
from torch import Tensor


class KvCache:
    """Keys and values, each [layers, slots, KV heads on the rank, positions, head_size].

    Untouched pages cost no memory: the zeros are mapped lazily.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        num_slots: int,
        num_kv_heads: int,
        num_positions: int,
        head_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (num_slots, num_kv_heads, num_positions, head_size)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(num_layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(num_layers)]

    def write_chunk(self, layer: int, slot: int, start: int, keys: Tensor, values: Tensor) -> None:
        """Store [KV heads, tokens, head_size] of one request from position `start` on."""
        stop = start + keys.shape[1]
        self.keys[layer][slot, :, start:stop] = keys
        self.values[layer][slot, :, start:stop] = values

    def write_tokens(self, layer: int, positions: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store one token, [requests, KV heads, head_size], for each of the first slots."""
        slots = torch.arange(keys.shape[0], device=keys.device)
        self.keys[layer][slots, :, positions] = keys
        self.values[layer][slots, :, positions] = values

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of a slot to another slot."""
        for tensor in (*self.keys, *self.values):
            tensor[target, :, :length] = tensor[source, :, :length]
