"""The memory of one rank, line by line, and what of it is left for the KV cache.

Each line says how it comes about, from where, and whether it is exact, modelled or assumed. Speed is
elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

from tpforge.dtypes import DType
from tpforge.plan.hardware.gpus import Gpu
from tpforge.plan.memory.engine_buffers import activation_bytes, decoder_bytes, runtime_bytes
from tpforge.plan.memory.kv import (
    TOKENS_PER_BLOCK,
    KvLayout,
    kv_layout,
    kv_tokens,
    longest_request,
    max_requests,
)
from tpforge.quantization import find_format
from tpforge.runtime import Runtime
from tpforge.shards.weights import Basis, RankShapes, weight_basis, weight_bytes
from tpforge.units import GIB, MIB

KV_FRACTION = 0.9
"""Share of the free memory that the cache gets. Source: kv_cache_free_gpu_mem_fraction."""
MAX_NUM_TOKENS = 8192
"""Tokens of one forward pass. Source: trtllm-build's default of max_num_tokens."""
_CONTEXT_BYTES = round(0.75 * GIB)
_DECODER_BYTES = 223 * MIB
_AICONFIGURATOR = "aiconfigurator-core 0.12.0"
_LOGS = "what TensorRT-LLM 0.15 to 0.17 printed when it loaded engines"
_MEMORY_MD = "NVIDIA/TensorRT-LLM, docs memory.md (worked example)"
# Activations of a rank, in 16-bit values per token and hidden unit, by tp_size.
_ACTIVATIONS = {1: 11.0, 2: 6.5, 4: 5.0, 8: 5.0}
_ACTIVATIONS_MOE = {1: 22.0, 2: 13.0, 4: 10.0, 8: 10.0}
_LEAST_ACTIVATIONS = 70 * MIB
_NCCL_BYTES = {1: 0, 2: 342 * MIB, 4: 392 * MIB}


@dataclass(frozen=True)
class MemoryLine:
    """One consumer of a rank's memory."""

    name: str
    num_bytes: int
    basis: Basis
    formula: str
    source: str


@dataclass(frozen=True)
class Settings:
    """What an engine is run with, as far as memory depends on it; types by their names in KV_BITS and
    formats. `is_windowed`: the cache keeps no more of a layer than its window (max_attention_window is set).
    `max_batch_size` and `max_num_tokens` are of one pass: a pipeline has one for each of its stages at once.
    """

    dtype: DType
    weight_format: str | None = None
    kv_dtype: str = "bfloat16"
    kv_fraction: float = KV_FRACTION
    max_num_tokens: int = MAX_NUM_TOKENS
    max_batch_size: int = 2048
    max_seq_len: int = 0
    tokens_per_block: int = TOKENS_PER_BLOCK
    is_windowed: bool = False
    runtime: Runtime = "tensorrt"


@dataclass(frozen=True)
class RankMemory:
    """The fullest rank of a deployment on a GPU: its lines, its cache, what remains."""

    gpu: Gpu
    stage: int
    lines: tuple[MemoryLine, ...]
    layout: KvLayout
    kv_fraction: float
    cache_groups: int = 1
    """Ranks of a stage with requests of their own, each in a cache as large as this one."""

    @cached_property
    def fixed_bytes(self) -> int:
        """Bytes of all but the cache: the sum of the lines."""
        return sum(line.num_bytes for line in self.lines)

    @property
    def free_bytes(self) -> int:
        """Bytes that are left before the cache; negative when the rest does not fit."""
        return self.gpu.memory_bytes - self.fixed_bytes

    @property
    def fits(self) -> bool:
        """Whether the weights and all that must be there fit, with at least one block of cache."""
        return self.kv_tokens > 0

    @cached_property
    def kv_bytes(self) -> int:
        """Bytes of the cache: `kv_fraction` of the free ones."""
        return max(0, int(self.free_bytes * self.kv_fraction))

    @cached_property
    def kv_tokens(self) -> int:
        """Tokens of all requests together, as if no layer had a window."""
        held = kv_tokens(self.free_bytes, fraction=self.kv_fraction, layout=self.layout)
        return self.cache_groups * held

    def max_requests(self, request_tokens: int) -> int:
        """How many requests of that many tokens, prompt and answer, run at once; none is evicted."""
        held = max_requests(self.kv_bytes, request_tokens=request_tokens, layout=self.layout)
        return self.cache_groups * held

    def longest_request(self, limit: int) -> int:
        """The most tokens of a single request, up to `limit`, the model's own."""
        return longest_request(self.kv_bytes, layout=self.layout, limit=limit)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights: the first line."""
        return self.lines[0].num_bytes


def rank_memory(shapes: RankShapes, *, gpu: Gpu, settings: Settings) -> RankMemory:
    """The memory of the rank with the least room for the cache; ranks of a stage are alike.

    Raises:
        UsageError: the KV cache's type is none of KV_BITS.
    """
    return _rank_memory(shapes, gpu, settings)


@lru_cache(maxsize=4096)
def _rank_memory(shapes: RankShapes, gpu: Gpu, settings: Settings) -> RankMemory:
    """Asked again for every number of GPUs and of replicas."""
    found = [_stage_memory(shapes, stage=stage, gpu=gpu, settings=settings) for stage in shapes.stages]
    return min(found, key=lambda one: one.kv_tokens if one.fits else one.free_bytes)


def _stage_memory(shapes: RankShapes, *, stage: int, gpu: Gpu, settings: Settings) -> RankMemory:
    lines = (
        _weights(shapes, stage=stage, settings=settings),
        _activations(shapes, gpu=gpu, settings=settings),
        *_communication(shapes, settings=settings),
        *_runtime(shapes, stage=stage, settings=settings),
        MemoryLine(
            "CUDA context",
            _CONTEXT_BYTES,
            "assumed",
            "79.10 GiB total - 70.48 free - engine, context and buffers of the example",
            _MEMORY_MD,
        ),
    )
    layout = kv_layout(
        shapes,
        stage=stage,
        kv_dtype=settings.kv_dtype,
        tokens_per_block=settings.tokens_per_block,
        is_windowed=settings.is_windowed,
    )
    return RankMemory(gpu, stage, lines, layout, settings.kv_fraction, shapes.cache_groups)


def _weights(shapes: RankShapes, *, stage: int, settings: Settings) -> MemoryLine:
    size = weight_bytes(shapes, stage=stage, dtype=settings.dtype, weight_format=settings.weight_format)
    if shapes.caches is not None:
        formula = "the rank's part of every tensor that config.json implies, in the format that it is held in"
        return MemoryLine("weights", size, "modelled", formula, "modules of transformers 5.23")
    basis = weight_basis(settings.weight_format)
    written = "the rank file's tensors" if basis == "exact" else "the rank's tensors in the format's layout"
    return MemoryLine(
        "weights",
        size,
        basis,
        f"{written}: padding, duplicated heads, scales included",
        "shard plan of tpforge convert" if basis == "exact" else "shard plan; layout of nvidia-modelopt 0.47",
    )


def _activations(shapes: RankShapes, *, gpu: Gpu, settings: Settings) -> MemoryLine:
    if settings.runtime == "tensorrt" and shapes.model.moe is None:
        return _activations_of_an_engine(shapes, gpu=gpu, settings=settings)
    tp_size, attention = shapes.attention_tp_size, shapes.model.attention
    table = _ACTIVATIONS_MOE if shapes.model.moe else _ACTIVATIONS
    factor = table[max(size for size in table if size <= tp_size)]
    width = attention.num_heads * attention.head_size
    size = max(_LEAST_ACTIVATIONS, round(2 * settings.max_num_tokens * width * factor))
    return MemoryLine(
        "activations",
        size,
        "modelled",
        f"2 B x {settings.max_num_tokens} tokens x {width} x {factor:g} (tp={tp_size}), at least 70 MiB",
        _AICONFIGURATOR,
    )


def _activations_of_an_engine(shapes: RankShapes, *, gpu: Gpu, settings: Settings) -> MemoryLine:
    """Of a compiled engine, whose tensors TensorRT lays out for the largest step that it is built for."""
    model, held = shapes.model, settings.weight_format
    width = model.mlp.intermediate_size / shapes.mapping.tp_size
    size = activation_bytes(
        settings.max_num_tokens,
        hidden=model.hidden_size,
        width=width,
        requests=settings.max_batch_size,
        vocab=model.vocab_size,
        products_of_fp8=held is not None and find_format(held).activations_on(gpu.sm) == "fp8",
    )
    return MemoryLine(
        "activations",
        size,
        "modelled",
        f"{settings.max_num_tokens} tokens: residual, norm and the gated product of {width:g}; logits of "
        f"{settings.max_batch_size} requests",
        _LOGS,
    )


def _runtime(shapes: RankShapes, *, stage: int, settings: Settings) -> Iterator[MemoryLine]:
    """Logits and what samples from them; a compiled engine's runtime allocates all of it when it loads."""
    is_last, vocab = stage == shapes.mapping.pp_size - 1, shapes.model.vocab_size
    requests, longest = settings.max_batch_size if is_last else 0, settings.max_seq_len
    if settings.runtime == "tensorrt":
        size = runtime_bytes(requests, vocab=vocab, longest=longest)
        formula = f"4 B x {requests} requests x (2 x {vocab} + {longest} tokens)"
        yield MemoryLine("runtime buffers", size, "modelled", formula, _LOGS)
        size = decoder_bytes(requests, vocab=vocab, longest=longest)
        formula = f"4 B x {requests} requests x 4 x ({vocab} + {longest} tokens)"
        yield MemoryLine("decoder", size, "modelled", formula, _LOGS)
        return
    yield MemoryLine(
        "logits",
        4 * requests * vocab,
        "modelled",
        f"4 B x {requests} requests x {vocab} on the last stage",
        "one float32 row a request, gathered over the tp ranks",
    )
    yield MemoryLine(
        "runtime buffers", _DECODER_BYTES, "assumed", "43 MB runtime + 180 MB decoder state", _MEMORY_MD
    )


def _communication(shapes: RankShapes, *, settings: Settings) -> tuple[MemoryLine, ...]:
    tp_size, world = shapes.mapping.tp_size, shapes.mapping.world_size
    nccl = _NCCL_BYTES[max(size for size in _NCCL_BYTES if size <= world)]
    # Three buffers, of the message size up to 8 MiB (16 MiB for two ranks).
    limit = (16 if tp_size == 2 else 8) * MIB
    message = 2 * settings.max_num_tokens * shapes.model.hidden_size
    own = 3 * min(limit, message) if tp_size > 1 else 0
    return (
        MemoryLine(
            "NCCL", nccl, "modelled", f"measured by {_AICONFIGURATOR} for {world} ranks", _AICONFIGURATOR
        ),
        MemoryLine(
            "all-reduce buffers",
            own,
            "modelled",
            f"3 x min(message, {limit // MIB} MiB)",
            "TensorRT-LLM, custom all-reduce workspace",
        ),
    )
