"""What `--optimize-for` sets, and why: each setting with its source.

Nothing that is set by hand is overwritten, and nothing is set that the checkpoint or the GPU rules out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from builders.tensorrt.target import BuildTarget

Goal = Literal["latency", "throughput", "memory"]
_FLAGS = "NVIDIA/TensorRT-LLM, docs, performance tuning guide, useful build-time flags"
_TOKENS = "NVIDIA/TensorRT-LLM, docs, performance tuning guide, tuning max batch size and max num tokens"
_MEMORY = "NVIDIA/TensorRT-LLM, docs, legacy/reference/memory.md"
_LLAMA = "LlamaForCausalLM"


@dataclass(frozen=True)
class Setting:
    """One argument that a preset gives, the reason, and where that is written."""

    name: str
    value: str | int
    why: str
    source: str


def preset(goal: Goal, target: BuildTarget) -> tuple[Setting, ...]:
    """The settings of a goal for a target, in the order in which they are explained."""
    return tuple(_settings(goal, target))


def _settings(goal: Goal, target: BuildTarget) -> Iterator[Setting]:
    checkpoint = target.checkpoint
    yield Setting(
        "use_paged_context_fmha", "enable", "blocks can be reused and long prompts cut into chunks", _FLAGS
    )
    if goal == "memory":
        yield Setting("multiple_profiles", "disable", "one profile has one set of activations", _MEMORY)
        yield Setting(
            "max_num_tokens", 2048, "activations grow with it; chunks make up for long prompts", _MEMORY
        )
    else:
        yield Setting(
            "multiple_profiles",
            "enable",
            "kernels for several batch sizes; costs build time only",
            _FLAGS,
        )
    yield from _products(goal, target)
    if goal == "memory" or checkpoint.tp_size == 1 or checkpoint.architecture != _LLAMA:
        return
    yield Setting("reduce_fusion", "enable", "adds and normalizes in the kernel of the all-reduce", _FLAGS)
    if checkpoint.is_fp8:
        yield Setting("user_buffer", "enable", "all-reduce without copies between buffers", _FLAGS)


def _products(goal: Goal, target: BuildTarget) -> Iterator[Setting]:
    """Who multiplies matrices: cuBLASLt's plugin for floats, TensorRT's own kernels for FP8."""
    checkpoint = target.checkpoint
    if checkpoint.quant_algo is None:
        yield Setting("gemm_plugin", "auto", "cuBLASLt is the faster one for FP16 and BF16", _FLAGS)
    elif checkpoint.is_fp8:
        yield Setting("gemm_plugin", "disable", "TensorRT's own FP8 kernels are the faster ones", _FLAGS)
        if goal == "latency" and target.sm in (89, 90):
            yield Setting("low_latency_gemm_plugin", "fp8", "products tuned for small batches", _FLAGS)
    if goal == "throughput":
        yield Setting(
            "max_num_tokens",
            8192,
            "room for prompts beside running requests; measure 2048 and max_batch_size 512 too, which gained "
            "most for Llama 3.3 70B on four H100",
            _TOKENS,
        )
