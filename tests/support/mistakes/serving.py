"""Mistakes of serving: parameters and files of a repository, hosts, and launches.

``issue`` is where upstream's users met it: L is NVIDIA/TensorRT-LLM, T is
triton-inference-server/tensorrtllm_backend; None where no issue of it was found. Each was looked up.
"""

from __future__ import annotations

from tests.support.hosts import gpu
from tests.support.mistakes.making import (
    Mistake,
    edited,
    host,
    launching,
    rendered,
    serving,
    without,
)
from triton_repo.serve.mpirun import parse_devices

SERVING = [
    # --- the repository ---
    serving(
        "a KV cache smaller than one request, in Triton",
        "T168",
        "does not hold one request",
        {"max_tokens_in_paged_kv_cache": 64},
    ),
    serving(
        "chunks of an engine without paged context",
        None,
        "built without use_paged_context_fmha",
        {"enable_chunked_context": True},
        use_paged_context_fmha="disable",
    ),
    serving("more beams than were built", None, "the engine was built for 1", {"max_beam_width": 4}),
    serving("one GPU for two ranks", None, "needs 2 GPUs, one per rank", {"gpu_device_ids": "0;1"}),
    serving("a GPU twice", "T170", "a GPU is given twice", {"gpu_device_ids": "0,1;1,2"}),
    serving("half a lookahead", None, "all three of lookahead_*", {"lookahead_window_size": 4}),
    Mistake(
        "a variable left in a template",
        "T501",
        lambda folder: rendered(folder, "tensorrt_llm", "max_batch_size: 4", "max_batch_size: ${batch}"),
        "is left over from a template",
    ),
    Mistake(
        "streaming in one of two models",
        "T626",
        lambda folder: rendered(folder, "tensorrt_llm_bls", "decoupled: true", "decoupled: false"),
        "streaming would give one response",
    ),
    Mistake(
        "a repository that was edited by hand", "T626", edited, "`tpforge render --force` writes it anew"
    ),
    Mistake(
        "a tokenizer that is not there",
        "T109",
        lambda folder: rendered(folder, "postprocessing", "/tokenizer", "/tokeniser"),
        "holds no tokenizer.json",
    ),
    # --- the host ---
    host("fewer GPUs than ranks", "T283", "the engine needs 2, one per rank", gpus=(gpu(0),)),
    host(
        "an engine of another GPU",
        "L3031",
        "is SM 80, the engine was built for SM 90",
        gpus=(gpu(0, sm=80), gpu(1)),
    ),
    host(
        "another TensorRT than it was built with",
        "T424",
        "the engine was built with 10.14.1.48",
        container=False,
        packages=(("tensorrt_llm", "1.2.1"), ("tensorrt", "10.9.0")),
    ),
    host(
        "another TensorRT-LLM than it was built with",
        "T531",
        "the engine is of 1.2.1",
        container=False,
        packages=(("tensorrt_llm", "1.0.0"),),
    ),
    host(
        "a driver that is too old for the container",
        None,
        "supports CUDA 12.4",
        cuda="12.4",
        driver="550.54.14",
    ),
    host("a container without GPUs", None, "container toolkit: not found", has_nvidia_containers=False),
    host("no shared memory", "T562", "/dev/shm: 64.0 MiB are free", container=False, shm_free_bytes=64 << 20),
    Mistake(
        "a rank file that is missing",
        None,
        lambda folder: without(folder, "engine/rank1.engine"),
        "1 rank files for tp x pp = 2 ranks",
    ),
    Mistake(
        "an engine folder without config.json",
        "T61",
        lambda folder: without(folder, "engine/config.json"),
        "config.json: missing",
    ),
    launching(
        "several instances in leader mode",
        "L1608",
        "2 instances need --mode orchestrator",
        parameters={"gpu_device_ids": "0,1;2,3"},
    ),
    launching(
        "GPUs by the host's numbers, where the server counts its own",
        None,
        "the server sees GPUs 0 to 3, this host's 4,5,6,7",
        parameters={"gpu_device_ids": "4,5;6,7"},
        devices="4,5,6,7",
        mode="orchestrator",
    ),
    launching("a GPU twice among the devices", None, "a GPU is given twice", devices="1,1"),
    launching("a container program that is not there", None, "podman: not found on PATH", container="podman"),
    Mistake(
        "GPUs that are not a multiple of the ranks",
        None,
        lambda _: parse_devices("0,1,2", world_size=2),
        "3 GPUs, but an engine has 2 ranks",
    ),
]
