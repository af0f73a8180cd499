"""Self-attention of one layer on one rank: queries, keys and values from one product, and the KV cache.

Latent attention, which caches something else, is in `latent`; both attend here.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ..batches import Batch, Prefill
from ..cache import LayerCache
from ..config import EngineConfig
from ..dequantize import kv_rounding
from ..loading import RankFile
from ..places import Place
from .norms import Norm
from .rotary import rotate, rotate_pairs


class Attention:
    """Grouped-query attention with the options of all families but latent attention.

    Raises:
        EngineError: a tensor is missing or has another shape.
    """

    def __init__(
        self, file: RankFile, prefix: str, config: EngineConfig, *, window: int | None, cache: LayerCache
    ) -> None:
        self._num_heads = config.num_heads // config.tp_size
        self._num_kv_heads = max(1, config.num_kv_heads // config.tp_size)
        self._head_size, self._window, self._cache = config.head_size, window, cache
        self._clip = config.clip_qkv
        self._rotate = rotate_pairs if config.position == "rope_gptj" else rotate
        self._core = Core(config, cache=cache)
        self._load(file, f"{prefix}attention.", config)

    def __call__(self, hidden: Tensor, batch: Batch, place: Place) -> Tensor:
        """The rank's part of attention and output projection, [tokens, hidden], without its bias."""
        heads = functional.linear(hidden, self._qkv, self._qkv_bias)
        if self._clip is not None:
            heads = heads.clamp(-self._clip, self._clip)
        heads = heads.view(hidden.shape[0], self._num_heads + 2 * self._num_kv_heads, self._head_size)
        turned = heads[:, : self._num_heads + self._num_kv_heads]
        if self._query_norm is not None and self._key_norm is not None:
            queries, keys = turned[:, : self._num_heads], turned[:, self._num_heads :]
            turned = torch.cat((self._query_norm(queries), self._key_norm(keys)), dim=1)
        if place.rotary:
            turned = self._rotate(turned, *place.rotary[self._window])
        queries, keys = turned[:, : self._num_heads], turned[:, self._num_heads :]
        values = heads[:, self._num_heads + self._num_kv_heads :]
        mask = place.masks[self._window]
        if isinstance(batch, Prefill):
            self._cache.write_chunk(batch.slot, batch.start, keys.transpose(0, 1), values.transpose(0, 1))
            attended = self._core.attend_chunk(batch, queries, mask)
        else:
            self._cache.write_tokens(place.slots, place.positions, keys, values)
            attended = self._core.attend_tokens(place.length, queries, mask)
        return functional.linear(attended, self._dense)

    def _load(self, file: RankFile, prefix: str, config: EngineConfig) -> None:
        hidden, size = config.hidden_size, config.head_size
        width = (self._num_heads + 2 * self._num_kv_heads) * size
        self._qkv = file.read(f"{prefix}qkv.weight", (width, hidden))
        self._qkv_bias = file.read_if(f"{prefix}qkv.bias", (width,))
        self._dense = file.read(f"{prefix}dense.weight", (hidden, self._num_heads * size))
        self.dense_bias = file.read_if(f"{prefix}dense.bias", (hidden,))
        step = file.read_if(f"{prefix}kv_cache_scaling_factor", (1,))
        if step is not None and config.kv_algorithm is None:
            file.refuse(f"{prefix}kv_cache_scaling_factor: config.json declares no quantized KV cache")
        if config.kv_algorithm is not None and config.rounds_kv:
            self._cache.rounding = kv_rounding(config.kv_algorithm, 1.0 if step is None else float(step))
        self._query_norm: Norm | None = None
        self._key_norm: Norm | None = None
        if config.qk_norm:
            self._query_norm = self._load_norm(file, f"{prefix}q_layernorm", config, self._num_heads)
            self._key_norm = self._load_norm(file, f"{prefix}k_layernorm", config, self._num_kv_heads)

    @staticmethod
    def _load_norm(file: RankFile, name: str, config: EngineConfig, num_heads: int) -> Norm:
        shape = (num_heads, config.head_size) if config.form.head_norms else (config.head_size,)
        kind = config.form.norm
        return file.read_norm(name, shape, kind=kind, bias=False, epsilon=config.norm_epsilon)


class Core:
    """Attention over a layer's cache: softmax(queries keys^T scale, masked) values."""

    def __init__(self, config: EngineConfig, *, cache: LayerCache) -> None:
        self._cache = cache
        self._scale = config.multipliers.score_scale
        self._softcap = config.multipliers.score_softcap

    def attend_chunk(self, batch: Prefill, queries: Tensor, mask: Tensor | None) -> Tensor:
        """Attend [tokens, heads, head_size] of a chunk that is in the cache: [tokens, heads x value size]."""
        keys = self._cache.keys[batch.slot, :, : batch.stop]
        values = self._cache.values[batch.slot, :, : batch.stop]
        group = queries.shape[1] // keys.shape[0]
        attended = self._attend(
            queries.transpose(0, 1)[None],
            keys.repeat_interleave(group, dim=0)[None],
            values.repeat_interleave(group, dim=0)[None],
            mask,
            is_causal=mask is None,
        )
        return attended[0].transpose(0, 1).reshape(len(batch.tokens), -1)

    def attend_tokens(self, length: int, queries: Tensor, mask: Tensor | None) -> Tensor:
        """Attend one token per request, [requests, heads, head_size]: [requests, heads x value size].

        The heads of a KV group stand as query positions, so that K and V are not repeated.
        """
        count = queries.shape[0]
        keys = self._cache.keys[:count, :, :length]
        attended = self._attend(
            queries.reshape(count, keys.shape[1], -1, keys.shape[3]),
            keys,
            self._cache.values[:count, :, :length],
            mask,
            is_causal=False,
        )
        return attended.reshape(count, -1)

    def _attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, *, is_causal: bool
    ) -> Tensor:
        if self._softcap is None:
            return functional.scaled_dot_product_attention(
                queries, keys, values, attn_mask=mask, is_causal=is_causal, scale=self._scale
            )
        scores = queries.float() @ keys.float().transpose(-1, -2) * self._scale
        scores = torch.tanh(scores / self._softcap) * self._softcap
        if is_causal:
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if mask is not None:
            is_kept = mask.dtype == torch.bool
            scores = scores.masked_fill(~mask, -torch.inf) if is_kept else scores + mask
        return scores.softmax(-1).to(values.dtype) @ values
