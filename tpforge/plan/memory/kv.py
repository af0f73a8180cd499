"""The KV cache of a rank: bytes per token, blocks, how many tokens and requests fit, the longest request.

It knows no speed. A request's cache is paged: it takes whole blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from tpforge.errors import UsageError
from tpforge.shards.weights import RankShapes

TOKENS_PER_BLOCK = 32
"""Source: TensorRT-LLM 1.2, trtllm-build's default of tokens_per_block."""
KV_BITS = {"float32": 32.0, "float16": 16.0, "bfloat16": 16.0, "int8": 8.0, "fp8": 8.0, "nvfp4": 4.5}
"""Bits of a cached value; NVFP4's scales are a byte for 16 values."""


@dataclass(frozen=True)
class LayerKv:
    """Layers of a stage with the same cache: `num_layers` of them, each keeping at most `window` tokens.

    An entry of `bytes_per_token` holds `every` tokens. Attention reads at most `read_limit` entries for a
    token, where it chooses; None: all of them. `request_bytes` are kept once for a request, however long.
    """

    num_layers: int
    bytes_per_token: int
    window: int | None
    every: int = 1
    read_limit: int | None = None
    request_bytes: int = 0


@dataclass(frozen=True)
class KvLayout:
    """The cache of one rank: the layers of its stage, and the tokens of a block."""

    layers: tuple[LayerKv, ...]
    tokens_per_block: int = TOKENS_PER_BLOCK

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one more token takes while no window is full."""
        return sum(layer.num_layers * layer.bytes_per_token // layer.every for layer in self.layers)

    def request_bytes(self, num_tokens: int) -> int:
        """Bytes of a request of `num_tokens`, in whole blocks; a window's layers keep no more than it."""
        total = 0
        for layer in self.layers:
            kept = num_tokens if layer.window is None else min(num_tokens, layer.window)
            entries = -(-self.whole_blocks(kept) // layer.every)
            total += layer.num_layers * (layer.bytes_per_token * entries + layer.request_bytes)
        return total

    def read_bytes(self, num_tokens: float) -> float:
        """Bytes that attention reads for one more token of a request that has `num_tokens`.

        What is kept for a request as a whole is read and written.
        """
        return sum(
            layer.num_layers
            * (layer.bytes_per_token * _entries_read(layer, num_tokens) + 2 * layer.request_bytes)
            for layer in self.layers
        )

    def whole_blocks(self, num_tokens: int) -> int:
        """`num_tokens` rounded up to whole blocks."""
        return -(-num_tokens // self.tokens_per_block) * self.tokens_per_block


def kv_layout(
    shapes: RankShapes,
    *,
    stage: int,
    kv_dtype: str,
    tokens_per_block: int = TOKENS_PER_BLOCK,
    is_windowed: bool = False,
) -> KvLayout:
    """The cache of a rank of `stage`.

    A layer and token: 2 (K and V) x KV heads on the rank x head_size x bytes. Heads are duplicated, not
    divided, where tp_size exceeds them. With latent attention (kv_lora_rank + qk_rope_head_size) x bytes, on
    every tp rank in full. A model with other caches says itself what each layer keeps. Layers with a sliding
    window read no more than it, and keep every token unless the cache `is_windowed`.
    Source: TensorRT-LLM 1.2, runtime/kv_cache_manager, and _torch/pyexecutor/resource_manager.py: without
    max_attention_window every layer keeps max_seq_len; DeepSeek-V2, section 2.1.

    Raises:
        UsageError: `kv_dtype` is none of KV_BITS.
    """
    if kv_dtype not in KV_BITS:
        raise UsageError(f"KV cache type {kv_dtype!r} is unknown; known are {', '.join(KV_BITS)}")
    return _layout(shapes, stage, kv_dtype, tokens_per_block, is_windowed)


@lru_cache(maxsize=4096)
def _layout(
    shapes: RankShapes, stage: int, kv_dtype: str, tokens_per_block: int, is_windowed: bool
) -> KvLayout:
    """Asked for every GPU and format of weights."""
    if shapes.caches is not None:
        own = _own_layers(shapes, stage=stage, kv_dtype=kv_dtype, is_windowed=is_windowed)
        return KvLayout(tuple(own), tokens_per_block)
    attention = shapes.model.attention
    if attention.latent is not None:
        values = attention.latent.kv_lora_rank + attention.latent.qk_rope_head_size
    else:
        heads = shapes.plan.padding.heads.rank_kv_heads(0, tp_size=shapes.attention_tp_size)
        values = 2 * len(heads) * attention.head_size
    num_bytes = round(values * KV_BITS[kv_dtype] / 8)
    counts: dict[int | None, int] = {}
    for layer in shapes.mapping.layers(stage * shapes.mapping.tp_size, num_layers=shapes.model.num_layers):
        window = shapes.model.window(layer)
        counts[window] = counts.get(window, 0) + 1
    layers = (
        LayerKv(count, num_bytes, window if is_windowed else None, read_limit=window)
        for window, count in counts.items()
    )
    return KvLayout(tuple(layers), tokens_per_block)


def _entries_read(layer: LayerKv, num_tokens: float) -> float:
    kept = num_tokens if layer.window is None else min(num_tokens, layer.window)
    entries = kept / layer.every
    return entries if layer.read_limit is None else min(entries, layer.read_limit)


def _own_layers(shapes: RankShapes, *, stage: int, kv_dtype: str, is_windowed: bool) -> Iterator[LayerKv]:
    assert shapes.caches is not None
    for kind, count in shapes.layers(stage).items():
        for cache in shapes.caches[kind]:
            num_bytes = round(cache.values * KV_BITS[kv_dtype] / 8) + cache.num_bytes
            keeps_all = cache.window_is_optional and not is_windowed
            yield LayerKv(
                num_layers=count,
                bytes_per_token=0 if cache.is_per_request else num_bytes,
                window=None if keeps_all else cache.window,
                every=cache.every,
                read_limit=cache.window if keeps_all else cache.read_limit,
                request_bytes=num_bytes if cache.is_per_request else 0,
            )


def kv_tokens(free_bytes: float, *, fraction: float, layout: KvLayout) -> int:
    """Tokens of the cache that takes `fraction` of the free bytes: whole blocks, the last one rounded up.

    Source: TensorRT-LLM, max tokens = fraction x free / bytes per token, blocks = ceil(tokens /
    tokens_per_block).
    """
    if free_bytes <= 0:
        return 0
    # A stage of layers without a growing cache takes any number: as many as if a token took a byte.
    tokens = int(free_bytes * fraction / max(1, layout.bytes_per_token))
    return layout.whole_blocks(tokens)


def max_requests(cache_bytes: float, *, request_tokens: int, layout: KvLayout) -> int:
    """Requests of `request_tokens` each whose whole cache fits: none is evicted before it ends."""
    return int(cache_bytes // layout.request_bytes(request_tokens)) if cache_bytes > 0 else 0


def longest_request(cache_bytes: float, *, layout: KvLayout, limit: int) -> int:
    """The most tokens, up to `limit`, of a single request whose cache fits."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if layout.request_bytes(middle) <= cache_bytes:
            low = middle
        else:
            high = middle - 1
    return low
