"""Mistakes that people make with TensorRT-LLM and Triton: each is refused before anything is launched.

`issue` is where upstream's users met it: L is NVIDIA/TensorRT-LLM, T is
triton-inference-server/tensorrtllm_backend; None where no issue of it was found. Each was looked up.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from builders.llm_formats import require_loadable
from builders.llmapi import LlmTarget, plan_llm
from builders.sources import open_source
from builders.sources.quantization import find_quantization
from builders.tensorrt.plan import plan_build
from builders.tensorrt.target import read_facts
from engines.runtime import find_misfits
from engines.store import write_manifest
from scripts.flows.launch import plan_launch
from tests.support.tiny import write_tiny_llama
from tests.unit.builders.tensorrt.test_tensorrt_build import target_of
from tests.unit.triton_repo.render.test_tensorrt_repository import RUNTIME
from tests.unit.triton_repo.serve.test_tensorrt_launch import gpu, host_of
from tpforge.errors import TpforgeError
from tpforge.manifest import EngineBuild, Limits, Manifest
from tpforge.mapping import Mapping
from tpforge.places import Places
from tpforge.recipe import ServeRecipe
from tpforge.repository_options import TensorrtOptions
from tpforge.versions import find_release, release_for
from triton_repo.render.check import check_repository
from triton_repo.render.parameters import check_parameters
from triton_repo.render.tensorrt import render_tensorrt
from triton_repo.serve.mpirun import parse_devices

RELEASE = find_release("1.2.1")
LIMITS = Limits(max_batch_size=64, max_input_len=2048, max_seq_len=4096)


@dataclass(frozen=True)
class Mistake:
    """What was done wrong, where it is known from, and the words that say what is wrong."""

    name: str
    issue: str | None
    attempt: Callable[[Path], Any]
    said: str


def build(name: str, issue: str | None, said: str, given: dict[str, Any], **target: Any) -> Mistake:
    def attempt(_folder: Path) -> None:
        plan_build(target_of(**target), limits=LIMITS, given=given)

    return Mistake(name, issue, attempt, said)


def llm(
    name: str, issue: str | None, said: str, given: dict[str, Any], *, tp: int = 4, sm: int = 90
) -> Mistake:
    def attempt(_folder: Path) -> None:
        plan_llm(LlmTarget(RELEASE, Mapping(tp_size=tp), LIMITS, sm=sm), given=given)

    return Mistake(name, issue, attempt, said)


def loading(
    name: str, issue: str | None, said: str, quantization: dict[str, Any], *, sm: int = 90
) -> Mistake:
    def attempt(folder: Path) -> None:
        found, _ = find_quantization(folder, {"quantization_config": quantization})
        require_loadable(found, where="model", trtllm="1.2.1", sm=sm, architecture="LlamaForCausalLM")

    return Mistake(name, issue, attempt, said)


def compiled(folder: Path, **build_arguments: Any) -> tuple[Path, Manifest]:
    """A tiny engine of runtime tensorrt whose files hold nothing."""
    from tests.support.tiny_engine import write_tiny_engine

    engine, manifest, _ = write_tiny_engine(folder, tp_size=2)
    (engine / "engine").mkdir()
    for name in ("rank0.engine", "rank1.engine"):
        (engine / "engine" / name).write_bytes(b"x")
    (engine / "engine" / "config.json").write_text('{"version": "1.2.1"}')
    record = EngineBuild(
        trtllm="1.2.1",
        tensorrt="10.14.1.48",
        cuda="13.1.0",
        arguments=build_arguments,
        command=("x",),
        sm=90,
    )
    return engine, manifest.model_copy(update={"runtime": "tensorrt", "engine_build": record})


def serving(
    name: str, issue: str | None, said: str, parameters: dict[str, Any], **build_arguments: Any
) -> Mistake:
    def attempt(folder: Path) -> None:
        _, manifest = compiled(folder, **build_arguments)
        check_parameters(parameters, manifest)

    return Mistake(name, issue, attempt, said)


def host(name: str, issue: str | None, said: str, *, container: bool = True, **changes: Any) -> Mistake:
    def attempt(folder: Path) -> list[str]:
        engine, manifest = compiled(folder)
        found = host_of(**changes)
        return find_misfits(engine, manifest, found, release=RELEASE, devices=(0, 1), container=container)

    return Mistake(name, issue, attempt, said)


def launching(
    name: str, issue: str | None, said: str, *, parameters: dict[str, Any] | None = None, **recipe: Any
) -> Mistake:
    """What a launch of a tiny engine of two ranks says, or what would keep it from being run."""

    def attempt(folder: Path) -> list[str]:
        engine, manifest = compiled(folder)
        write_manifest(engine, manifest)
        options = TensorrtOptions(parameters=parameters or {})
        with mock.patch("engines.host.find_host", return_value=host_of(gpus=tuple(map(gpu, range(8))))):
            launch = plan_launch(Places(engine), ServeRecipe(**recipe), options=options, render=False)
        return list(launch.misfits)

    return Mistake(name, issue, attempt, said)


def edited(folder: Path) -> list[str]:
    """What a launch says of a repository that was edited after it was rendered."""
    engine, manifest = compiled(folder)
    write_manifest(engine, manifest)
    options = TensorrtOptions()
    rendered = render_tensorrt(
        engine, manifest, out=Places(engine).repository, runtime_source=RUNTIME, options=options
    )
    file = rendered.path / "tensorrt_llm_bls" / "config.pbtxt"
    file.write_text(file.read_text().replace("decoupled: true", "decoupled: false"))
    with mock.patch("engines.host.find_host", return_value=host_of()):
        return list(plan_launch(Places(engine), ServeRecipe(), options=options, render=False).misfits)


def without(folder: Path, name: str) -> list[str]:
    """What is said of an engine that has lost a file."""
    engine, manifest = compiled(folder)
    (engine / name).unlink()
    return find_misfits(engine, manifest, host_of(), release=RELEASE, devices=(0, 1), container=True)


def rendered(folder: Path, model: str, old: str, new: str) -> list[str]:
    """What is said of a repository after a change of one config.pbtxt."""
    engine, manifest = compiled(folder)
    repository = render_tensorrt(
        engine, manifest, out=folder / "r", runtime_source=RUNTIME, options=TensorrtOptions()
    ).path
    file = repository / model / "config.pbtxt"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))
    return check_repository(repository, runtime="tensorrt")


def wrong_world(_folder: Path) -> None:
    mapping = {"world_size": 8, "tp_size": 4, "pp_size": 1}
    read_facts({"architecture": "a", "dtype": "float16", "mapping": mapping}, where="config.json")


def scaled_cache(folder: Path) -> None:
    write_tiny_llama(folder)
    held = {"quant_algo": "FP8", "kv_cache_quant_algo": "NVFP4"}
    (folder / "hf_quant_config.json").write_text(json.dumps({"quantization": held}))
    open_source(str(folder)).close()


MISTAKES = [
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
    serving("one GPU for two ranks", None, "needs 2 GPUs, one a rank", {"gpu_device_ids": "0;1"}),
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
    host("fewer GPUs than ranks", "T283", "the engine needs 2, one a rank", gpus=(gpu(0),)),
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


def test_there_are_forty_of_them_and_no_two_are_the_same() -> None:
    assert len({mistake.name for mistake in MISTAKES}) == len(MISTAKES) >= 40


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake_is_refused_before_launch_with_the_reason(mistake: Mistake, tmp_path: Path) -> None:
    try:
        said = "\n".join(mistake.attempt(tmp_path) or [])
    except TpforgeError as error:
        assert error.exit_code in (2, 3, 4)
        said = str(error)
    assert mistake.said in said
