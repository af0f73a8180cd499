"""What trtllm-bench set for a published row: max_batch_size and max_num_tokens, by release and lengths.

It measures nothing. Source: NVIDIA/TensorRT-LLM, tensorrt_llm/bench/build: benchmark_config.yml, which
release 0.14 took both from, and tuning.py, by which later ones compute them (calc_engine_setting and
finetune_setting). Of the LLM API a pass holds a whole prompt, since prompts are not read in chunks
(bench/benchmark/utils/general.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tpforge.plan.hardware.gpus import Gpu
from tpforge.runtime import Runtime
from tpforge.shards.weights import RankShapes


@dataclass(frozen=True)
class BenchSettings:
    """Of one pass; a pipeline has one for each of its stages at once."""

    max_batch_size: int
    max_num_tokens: int


# By model and tp_size, for all lengths unless the tokens of a request are named. The file names Llama 3,
# whose published rows equal those of Llama 3.1. It has no row of the 405B, which is taken to have
# trtllm-build's defaults, and none of Mixtral at tp 8, taken as at tp 4. Mistral's 4098 is the file's.
_OF_0_14 = {
    ("llama-3.1-8b", 1): BenchSettings(2048, 8192),
    ("mistral-7b", 1): BenchSettings(4098, 8192),
    ("llama-3.1-70b", 1): BenchSettings(2048, 2048),
    ("llama-3.1-70b", 2): BenchSettings(256, 1024),
    ("llama-3.1-70b", 4): BenchSettings(2048, 1024),
    ("llama-3.1-70b", 8): BenchSettings(8192, 16384),
    ("llama-3.1-405b", 8): BenchSettings(2048, 8192),
    ("mixtral-8x7b", 2): BenchSettings(2048, 3072),
    ("mixtral-8x7b", 4): BenchSettings(8192, 8192),
    ("mixtral-8x7b", 8): BenchSettings(8192, 8192),
}
_OF_0_14_AT = {("llama-3.1-70b", 2, 4096): BenchSettings(2048, 1024)}
_MOST_REQUESTS, _MOST_TOKENS, _LEAST_REQUESTS, _LEAST_TOKENS = 4096, 32768, 64, 2048
_SHARE = 0.95
"""Of the memory that weights leave, which the rule gives the cache."""


def of_table(model: str, *, tp_size: int, request_tokens: int) -> BenchSettings:
    """Release 0.14's."""
    at = _OF_0_14_AT.get((model, tp_size, request_tokens))
    return _OF_0_14[model, tp_size] if at is None else at


def by_rule(
    shapes: RankShapes,
    *,
    parameters: int,
    gpu: Gpu,
    weight_bits: float,
    kv_bits: float,
    lengths: tuple[int, int],
    runtime: Runtime,
) -> BenchSettings:
    """The later releases', from the requests that the cache of all GPUs is thought to hold."""
    mapping, model = shapes.mapping, shapes.model
    heads = max(mapping.tp_size, model.attention.num_kv_heads)
    token = 2 * model.num_layers * heads * model.attention.head_size * kv_bits / 8
    free = gpu.memory_bytes * mapping.world_size - parameters * weight_bits / 8
    requests = min(free * _SHARE / (token * sum(lengths)), _MOST_REQUESTS) / mapping.pp_size
    tokens = min(requests * (1 + lengths[0] / lengths[1]), _MOST_TOKENS)
    found = BenchSettings(_rounded_requests(requests), _rounded_tokens(tokens))
    if runtime == "tensorrt":
        return found
    whole = lengths[0] + found.max_batch_size
    return BenchSettings(found.max_batch_size, max(found.max_num_tokens, whole))


def _rounded_requests(requests: float) -> int:
    step = 32 if requests < 256 else 128 if requests < 1024 else 256
    return max(_LEAST_REQUESTS, step * math.ceil(requests / step))


def _rounded_tokens(tokens: float) -> int:
    step = 256 if tokens < 4096 else 512 if tokens < 8192 else 1024
    return max(_LEAST_TOKENS, step * math.ceil(tokens / step))
