"""Multi-head latent attention (DeepSeek V2) of one layer on one rank, over a cache of latent vectors.

Keys and values of all heads are products of one latent vector a token. The key's factor is moved into the
query and the value's behind the softmax, so that attention runs on the cached vectors themselves, which
stand for one KV head. Source: DeepSeek-V2, section 2.1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ..batches import Batch, Prefill
from ..cache import LayerCache
from ..config import EngineConfig
from ..fields import LatentConfig
from ..loading import RankFile
from ..places import Place
from .attention import Core
from .norms import Norm
from .rotary import rotate_pairs


class LatentAttention:
    """Latent attention; its cache holds kv_lora_rank + qk_rope_head_dim values a token, whole on every rank.

    Raises:
        EngineError: a tensor is missing, has another shape, or the two forms of the key's factor differ.
    """

    dense_bias = None

    def __init__(
        self, file: RankFile, prefix: str, config: EngineConfig, *, sizes: LatentConfig, cache: LayerCache
    ) -> None:
        self._sizes, self._cache = sizes, cache
        self._num_heads = config.num_heads // config.tp_size
        self._core = Core(config, cache=cache)
        self._load(file, f"{prefix}attention.", config)

    def __call__(self, hidden: Tensor, batch: Batch, place: Place) -> Tensor:
        """The rank's part of attention and output projection, [tokens, hidden]."""
        sizes, rotary = self._sizes, place.rotary[None]
        reduced = functional.linear(hidden, self._fused_a)
        query_source, latent, key_rope = torch.split(reduced, self._reduced_sizes, dim=-1)
        query_source = hidden if self._query_norm is None else self._query_norm(query_source)
        queries = functional.linear(query_source, self._query).view(len(hidden), self._num_heads, -1)
        query_nope, query_rope = torch.split(
            queries, [sizes.qk_nope_head_dim, sizes.qk_rope_head_dim], dim=-1
        )
        absorbed = torch.einsum("thn,hkn->thk", query_nope, self._key_factor)
        queries = torch.cat((absorbed, rotate_pairs(query_rope, *rotary)), dim=-1)
        keys = torch.cat(
            (self._latent_norm(latent)[:, None], rotate_pairs(key_rope[:, None], *rotary)), dim=-1
        )
        mask = place.masks[None]
        if isinstance(batch, Prefill):
            self._cache.write_chunk(batch.slot, batch.start, keys.transpose(0, 1))
            attended = self._core.attend_chunk(batch, queries, mask)
        else:
            self._cache.write_tokens(place.slots, place.positions, keys)
            attended = self._core.attend_tokens(place.length, queries, mask)
        values = torch.einsum(
            "thk,hvk->thv", attended.view(len(hidden), self._num_heads, -1), self._value_factor
        )
        return functional.linear(values.flatten(1), self._dense)

    def _load(self, file: RankFile, prefix: str, config: EngineConfig) -> None:
        sizes, heads, hidden = self._sizes, self._num_heads, config.hidden_size
        rank, nope, rope = sizes.kv_lora_rank, sizes.qk_nope_head_dim, sizes.qk_rope_head_dim
        self._reduced_sizes = [sizes.q_lora_rank or 0, rank, rope]
        self._fused_a = file.read(f"{prefix}fused_a.weight", (sum(self._reduced_sizes), hidden))
        self._query_norm: Norm | None = None
        epsilon = config.norm_epsilon
        if sizes.q_lora_rank:
            name, shape = f"{prefix}q_a_layernorm", (sizes.q_lora_rank,)
            self._query_norm = file.read_norm(name, shape, kind="rmsnorm", bias=False, epsilon=epsilon)
        name = f"{prefix}kv_a_layernorm"
        self._latent_norm = file.read_norm(name, (rank,), kind="rmsnorm", bias=False, epsilon=epsilon)
        self._query = file.read(f"{prefix}q_b_proj", (heads * (nope + rope), sizes.q_lora_rank or hidden))
        both = file.read(f"{prefix}kv_b_proj", (heads * (nope + sizes.v_head_dim), rank))
        keys, values = torch.split(both, [heads * nope, heads * sizes.v_head_dim])
        transposed = file.read(f"{prefix}k_b_proj_trans", (heads * rank, nope))
        self._key_factor = transposed.view(heads, rank, nope)
        if not torch.equal(self._key_factor.transpose(1, 2), keys.view(heads, nope, rank)):
            file.refuse(f"{prefix}k_b_proj_trans is not the transpose of the keys in kv_b_proj")
        self._value_factor = values.view(heads, sizes.v_head_dim, rank)
        self._dense = file.read(f"{prefix}dense.weight", (hidden, heads * sizes.v_head_dim))
