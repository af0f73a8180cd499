"""What no single argument of trtllm-build shows: arguments that exclude, need or silently undo each other.

Every rule says what upstream would do, often hours later: fail, or build something else than was asked. The
names, types and choices of single arguments are checked by `tpforge.trtllm.arguments`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from builders.tensorrt.target import BuildTarget
from tpforge.units import counted

_FUSED_REDUCE = ("LlamaForCausalLM", "Gemma2ForCausalLM", "MedusaForCausalLM")
_REFUSED_ON_SM100 = (
    "gemm_swiglu_plugin",
    "fp8_rowwise_gemm_plugin",
    "low_latency_gemm_plugin",
    "low_latency_gemm_swiglu_plugin",
    "bert_context_fmha_fp32_acc",
)
_INTEGER_WEIGHTS = ("W8A16", "W4A16", "W4A16_AWQ", "W4A16_GPTQ", "W8A16_GPTQ", "W4A8_AWQ")
_FP8_ATTENTION = ("FP8", "W4A8_AWQ", "NVFP4")
_LARGE_NUM_TOKENS = 16384


class Arguments:
    """The arguments of a build: those given, and upstream's defaults of the others."""

    def __init__(self, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self.given = dict(given)
        self._defaults = dict(defaults)

    def __getitem__(self, name: str) -> Any:
        return self.given.get(name, self._defaults.get(name))

    def is_on(self, name: str) -> bool:
        """Whether a plugin, switch or flag is on."""
        return self[name] not in (None, False, "disable")

    def asked(self, name: str) -> bool:
        """Whether it was turned on on purpose."""
        return name in self.given and self.is_on(name)


def find_problems(arguments: Arguments, target: BuildTarget) -> list[str]:
    """Everything that keeps the arguments from being built, or from being built as asked; sorted."""
    rules = (_sizes, _attention, _products, _fusions, _speculation, _lora, _parallelism, _gpu, _other)
    return sorted({problem for rule in rules for problem in rule(arguments, target)})


def find_warnings(arguments: Arguments, target: BuildTarget) -> list[str]:
    """What works but is seldom meant."""
    found = []
    tokens = arguments["max_num_tokens"]
    if tokens is not None and tokens > _LARGE_NUM_TOKENS:
        found.append(
            f"max_num_tokens {tokens}: above {_LARGE_NUM_TOKENS} it takes memory and seldom gains speed "
            "(upstream warns)"
        )
    if target.sm is None:
        found.append(
            "the target GPU is not known: nothing was checked against it; give --sm, such as --sm 90"
        )
    if not arguments.is_on("multiple_profiles"):
        found.append(
            "multiple_profiles is off: upstream's guide turns it on for production; the build takes longer"
        )
    if target.checkpoint.is_fp8 and arguments.is_on("gemm_plugin"):
        found.append("gemm_plugin is on with FP8 weights: upstream's guide turns it off")
    return found


def _sizes(arguments: Arguments, target: BuildTarget) -> Iterator[str]:
    batch, beams = arguments["max_batch_size"], arguments["max_beam_width"]
    tokens, seq_len = arguments["max_num_tokens"], arguments["max_seq_len"]
    input_len, opt = arguments["max_input_len"], arguments["opt_num_tokens"]
    positions = target.checkpoint.max_positions
    if opt is not None and arguments.is_on("multiple_profiles"):
        yield "opt_num_tokens: cannot be given with multiple_profiles enable; leave it out"
    if opt is not None and opt > tokens:
        yield f"opt_num_tokens {opt}: is above max_num_tokens {tokens}"
    if seq_len is not None and "max_num_tokens" in arguments.given and tokens > seq_len * batch:
        yield (
            f"max_num_tokens {tokens}: is above max_seq_len {seq_len} x max_batch_size {batch}, and would be "
            f"cut to {seq_len * batch} without a word"
        )
    if tokens is not None and tokens < batch * beams:
        yield (
            f"max_num_tokens {tokens}: is below max_batch_size {batch} x max_beam_width {beams}; a step "
            "could not take a token of every request"
        )
    if seq_len is not None and "max_input_len" in arguments.given and input_len > seq_len:
        yield f"max_input_len {input_len}: is above max_seq_len {seq_len}"
    if seq_len is not None and positions is not None and seq_len > positions:
        yield f"max_seq_len {seq_len}: is above the {positions} positions of the model"
    block = arguments["tokens_per_block"]
    if block & (block - 1):
        yield f"tokens_per_block {block}: is not a power of two"
    if not arguments.is_on("use_paged_context_fmha") and input_len is not None and input_len > tokens:
        yield (
            f"max_input_len {input_len}: is above max_num_tokens {tokens}, and without "
            "use_paged_context_fmha a prompt cannot be cut into chunks"
        )


def _attention(arguments: Arguments, target: BuildTarget) -> Iterator[str]:
    for name, why in (
        ("gpt_attention_plugin", "in-flight batching runs on it"),
        ("remove_input_padding", "in-flight batching needs packed tokens"),
    ):
        if not arguments.is_on(name):
            yield f"{name} disable: {why}; Triton could serve nothing"
    if arguments["kv_cache_type"] in ("continuous", "disabled"):
        yield f"kv_cache_type {arguments['kv_cache_type']}: in-flight batching needs paged"
    if "paged_kv_cache" in arguments.given:
        yield "paged_kv_cache: is deprecated; use kv_cache_type=paged, which is the default"
    if arguments.asked("use_paged_context_fmha") and not arguments.is_on("context_fmha"):
        yield "use_paged_context_fmha enable: needs context_fmha enable"
    algo = target.checkpoint.quant_algo
    if arguments.asked("use_fp8_context_fmha") and algo not in _FP8_ATTENTION:
        wanted = ", ".join(_FP8_ATTENTION)
        yield f"use_fp8_context_fmha enable: needs weights in {wanted}; these are {_text(algo)}"
    if arguments.asked("fuse_fp4_quant") and algo != "NVFP4":
        yield f"fuse_fp4_quant enable: needs weights in NVFP4; these are {_text(algo)}"


def _products(arguments: Arguments, target: BuildTarget) -> Iterator[str]:
    algo = target.checkpoint.quant_algo
    wants = {
        "gemm_swiglu_plugin": "FP8",
        "low_latency_gemm_plugin": "FP8",
        "low_latency_gemm_swiglu_plugin": "FP8",
        "fp8_rowwise_gemm_plugin": "FP8_PER_CHANNEL_PER_TOKEN",
    }
    for name, wanted in wants.items():
        if arguments.asked(name) and algo != wanted:
            yield f"{name} {arguments[name]}: needs weights in {wanted}; these are {_text(algo)}"
    for value, wanted in (("fp8", "FP8"), ("nvfp4", "NVFP4")):
        if arguments["gemm_plugin"] == value and algo != wanted:
            yield f"gemm_plugin {value}: needs weights in {wanted}; these are {_text(algo)}"
    if arguments.is_on("low_latency_gemm_plugin") and arguments.is_on("gemm_plugin"):
        yield "low_latency_gemm_plugin: is used in place of gemm_plugin; give one of them"
    if arguments.is_on("gemm_swiglu_plugin") and not arguments.is_on("use_fused_mlp"):
        yield "gemm_swiglu_plugin: needs use_fused_mlp enable"
    if arguments.asked("use_fused_mlp") and algo not in (None, "FP8", "MIXED_PRECISION"):
        yield f"use_fused_mlp enable: upstream turns it off for {algo} without a word"
    if arguments.is_on("weight_streaming") and arguments.is_on("gemm_plugin"):
        yield "weight_streaming: a plugin's weights cannot be streamed; set gemm_plugin=disable"
    if arguments.is_on("fast_build") and algo in _INTEGER_WEIGHTS:
        yield f"fast_build: does not work with weights in {algo}"


def _fusions(arguments: Arguments, target: BuildTarget) -> Iterator[str]:
    checkpoint = target.checkpoint
    architecture, algo = checkpoint.architecture, checkpoint.quant_algo
    if arguments.is_on("user_buffer"):
        if not arguments.is_on("reduce_fusion"):
            yield "user_buffer enable: needs reduce_fusion enable"
        if architecture != "LlamaForCausalLM" or not checkpoint.is_fp8:
            yield (
                f"user_buffer enable: is for Llama in FP8; this is {architecture}, "
                f"its weights are {_text(algo)}"
            )
    if arguments.is_on("reduce_fusion"):
        if checkpoint.tp_size == 1:
            yield "reduce_fusion enable: there is no all-reduce at tp=1; upstream turns it off without a word"
        elif architecture not in _FUSED_REDUCE:
            yield (
                f"reduce_fusion enable: upstream has it for {', '.join(_FUSED_REDUCE)}, and turns it off for "
                f"{architecture} without a word"
            )
    if arguments.is_on("norm_quant_fusion") and (
        architecture != "LlamaForCausalLM" or algo != "NVFP4" or arguments.is_on("reduce_fusion")
    ):
        yield (
            "norm_quant_fusion enable: is for Llama in NVFP4 without reduce_fusion; upstream turns it off "
            "without a word"
        )
    if arguments.is_on("pp_reduce_scatter"):
        if architecture != "MixtralForCausalLM":
            yield f"pp_reduce_scatter enable: is for MixtralForCausalLM; this is {architecture}"
        if checkpoint.pp_size == 1:
            yield "pp_reduce_scatter enable: there are no stages at pp=1"


def _speculation(arguments: Arguments, target: BuildTarget) -> Iterator[str]:
    mode, length = arguments["speculative_decoding_mode"], arguments["max_draft_len"]
    logits = arguments.is_on("gather_context_logits") or arguments.is_on("gather_all_token_logits")
    if logits and length > 0:
        yield f"gather_context_logits: cannot be given with max_draft_len {length}"
    if mode is None and length > 0:
        yield f"max_draft_len {length}: needs speculative_decoding_mode"
    if mode is not None and length < 1:
        yield f"speculative_decoding_mode {mode}: needs max_draft_len"
    if mode is not None and arguments["max_beam_width"] > 1:
        yield f"max_beam_width {arguments['max_beam_width']}: there is no beam search with {mode}; use 1"
    if "gather_generation_logits" in arguments.given:
        yield "gather_generation_logits: is deprecated and not needed to build; ask for logits in the request"


def _lora(arguments: Arguments, target: BuildTarget) -> Iterator[str]:
    if arguments.is_on("lora_plugin"):
        return
    for name in ("lora_dir", "lora_target_modules", "max_lora_rank", "lora_ckpt_source"):
        if name in arguments.given:
            yield f"{name}: has no effect without lora_plugin, such as lora_plugin=auto"
    if arguments.is_on("dora_plugin"):
        yield "dora_plugin enable: needs lora_plugin, such as lora_plugin=auto"


def _parallelism(arguments: Arguments, target: BuildTarget) -> Iterator[str]:
    world, workers = target.checkpoint.world_size, arguments["workers"]
    if world > 1 and not arguments.is_on("nccl_plugin"):
        yield f"nccl_plugin disable: {world} ranks could not talk to each other"
    if arguments.is_on("gemm_allreduce_plugin") and target.checkpoint.tp_size == 1:
        yield "gemm_allreduce_plugin: there is no all-reduce at tp=1"
    if workers > world:
        yield f"workers {workers}: there are only {counted(world, 'rank')} to build"
    elif target.num_gpus is not None and workers > target.num_gpus:
        yield f"workers {workers}: each needs a GPU, and there are {target.num_gpus}"


def _gpu(arguments: Arguments, target: BuildTarget) -> Iterator[str]:
    sm = target.sm
    if sm is None:
        return
    if sm == 100:
        for name in _REFUSED_ON_SM100:
            if arguments.is_on(name):
                yield f"{name}: upstream refuses it on SM 100"
    if arguments.is_on("gemm_swiglu_plugin") and sm != 90:
        yield f"gemm_swiglu_plugin: is for Hopper (SM 90); the target is SM {sm}"
    if target.checkpoint.dtype == "bfloat16" and sm < 80:
        yield f"bfloat16 weights: need SM 80; the target is SM {sm}; convert with --dtype float16"
    if sm < 75:
        yield f"SM {sm}: is no longer supported since TensorRT-LLM 0.16"


def _other(arguments: Arguments, target: BuildTarget) -> Iterator[str]:
    for one, other in (("model_cls_file", "model_cls_name"), ("model_cls_name", "model_cls_file")):
        if one in arguments.given and other not in arguments.given:
            yield f"{one}: needs {other}"


def _text(algo: str | None) -> str:
    return algo or "not quantized"
