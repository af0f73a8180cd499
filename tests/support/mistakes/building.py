"""Mistakes of building: arguments of trtllm-build and of the LLM API, and checkpoints for them.

``issue`` is where upstream's users met it: L is NVIDIA/TensorRT-LLM, T is
triton-inference-server/tensorrtllm_backend; None where no issue of it was found. Each was looked up.
"""

from __future__ import annotations

from tests.support.mistakes.making import (
    Mistake,
    build,
    llm,
    loading,
    scaled_cache,
    wrong_world,
)
from tpforge.trtllm.versions import release_for

BUILDING = [
    # --- trtllm-build ---
    Mistake(
        "ModelOpt's checkpoint with a KV cache of 4 bits, for compiled engines",
        None,
        scaled_cache,
        "--runtime pytorch loads it as it is",
    ),
    build(
        "opt_num_tokens beside multiple_profiles",
        None,
        "cannot be given with multiple_profiles",
        {"opt_num_tokens": 128, "multiple_profiles": "enable"},
    ),
    build(
        "user_buffer alone",
        None,
        "needs reduce_fusion enable",
        {"user_buffer": "enable"},
        quant_algo="FP8",
    ),
    build(
        "user_buffer of a model that is not FP8 Llama",
        None,
        "is for Llama in FP8",
        {"user_buffer": "enable", "reduce_fusion": "enable"},
    ),
    build(
        "reduce_fusion without an all-reduce",
        None,
        "no all-reduce at tp=1",
        {"reduce_fusion": "enable"},
        tp_size=1,
        world_size=1,
    ),
    build(
        "reduce_fusion of a model that has none",
        None,
        "turns it off for QWenForCausalLM",
        {"reduce_fusion": "enable"},
        architecture="QWenForCausalLM",
    ),
    build(
        "more tokens than all requests can have",
        None,
        "is above max_seq_len 4096 x max_batch_size 64",
        {"max_num_tokens": 1 << 20},
    ),
    build("fewer tokens than requests", None, "is below max_batch_size 64", {"max_num_tokens": 32}),
    build("more workers than GPUs", None, "each needs a GPU, and there are 2", {"workers": 4}, num_gpus=2),
    build("more workers than ranks", None, "there are only 4 ranks", {"workers": 8}),
    build("FP8 weights for an A100", None, "SM80 is not supported", {}, quant_algo="FP8", sm=80),
    build("bfloat16 for a T4", None, "bfloat16 weights: need SM 80", {}, sm=75),
    build("a V100", None, "no longer supported since TensorRT-LLM 0.16", {}, sm=70, dtype="float16"),
    build(
        "a plugin that Blackwell does not have",
        None,
        "upstream refuses it on SM 100",
        {"low_latency_gemm_plugin": "fp8"},
        quant_algo="FP8",
        sm=100,
    ),
    build(
        "two plugins for the same products",
        None,
        "is used in place of gemm_plugin",
        {"low_latency_gemm_plugin": "fp8", "gemm_plugin": "fp8"},
        quant_algo="FP8",
    ),
    build("static batching", None, "needs packed tokens", {"remove_input_padding": "disable"}),
    build("a KV cache that is not paged", None, "needs paged", {"kv_cache_type": "continuous"}),
    build("StreamingLLM", None, "no longer works", {"streamingllm": "enable"}),
    build(
        "logits of the prompt with drafts",
        None,
        "cannot be given with max_draft_len",
        {"gather_context_logits": True, "max_draft_len": 4, "speculative_decoding_mode": "medusa"},
    ),
    build("LoRA folders without the plugin", None, "no effect without lora_plugin", {"lora_dir": "adapter"}),
    build("a misspelt argument", None, "did you mean max_num_tokens?", {"max_num_token": 4096}),
    build(
        "a length beyond the model's positions",
        None,
        "is above the 2048 positions",
        {},
        max_positions=2048,
    ),
    Mistake(
        "a checkpoint whose world size is not tp x pp",
        "L2021",
        wrong_world,
        "tp_size 4 x pp_size 1 are 4 ranks",
    ),
    Mistake(
        "compiled engines of a release that dropped them",
        "L15918",
        lambda _: release_for("1.3.0rc21", runtime="tensorrt"),
        "has no trtllm-build",
    ),
    # --- the LLM API ---
    llm(
        "an argument of another level",
        None,
        "did you mean kv_cache",
        {"free_gpu_memory_fraction": 0.8},
    ),
    llm("a fraction in per cent", None, "expected 0 to 1", {"kv_cache_config.free_gpu_memory_fraction": 90}),
    llm(
        "prompts beyond max_num_tokens",
        "L2702",
        "such a prompt is refused",
        {"max_num_tokens": 1024},
    ),
    llm(
        "a KV cache smaller than one request",
        "L542",
        "does not hold one request",
        {"kv_cache_config.max_tokens": 1024},
    ),
    llm(
        "graphs by list and by number",
        None,
        "give one of them",
        {"cuda_graph_config.batch_sizes": [1, 2], "cuda_graph_config.max_batch_size": 2},
    ),
    llm("Eagle without a draft model", None, "Eagle needs it", {"speculative_config.decoding_type": "Eagle"}),
    llm("adapters that are not turned on", None, "needs enable_lora", {"lora_config.max_lora_rank": 8}),
    loading("GPTQ weights", None, "loads GPTQ", {"quant_method": "gptq", "bits": 4}),
    loading("AutoAWQ weights", None, "loads AutoAWQ", {"quant_method": "awq", "bits": 4}),
    loading(
        "INT8 weights and activations",
        None,
        "wrong answers without an error",
        {
            "quant_method": "compressed-tensors",
            "config_groups": {"g": {"weights": {"num_bits": 8, "type": "int", "strategy": "channel"}}},
        },
    ),
    loading(
        "static FP8 of compressed-tensors",
        None,
        "does not load",
        {
            "quant_method": "compressed-tensors",
            "config_groups": {"g": {"weights": {"num_bits": 8, "type": "float", "strategy": "tensor"}}},
        },
    ),
    loading(
        "NVFP4 for an H100",
        None,
        "SM90 is not supported",
        {"quant_method": "modelopt", "quant_algo": "NVFP4"},
    ),
]
