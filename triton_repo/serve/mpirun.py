"""The commands that start TensorRT-LLM's ranks behind Triton: leader mode, orchestrator mode, the LLM API.

It starts nothing. Source: NVIDIA/TensorRT-LLM, triton_backend/scripts/launch_triton_server.py, and
tensorrt_llm/llmapi/trtllm-llmapi-launch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tpforge.errors import UsageError
from tpforge.units import counted
from triton_repo.serve.ports import Ports

TRITONSERVER = "/opt/tritonserver/bin/tritonserver"
"""Where the NGC container has it."""
HISTOGRAMS = "--metrics-config=histogram_latencies=true"
"""Turns on nv_inference_first_response_histogram_ms, the time to the first token; off by default.

It is of October 2024, and the containers whose commands are written here are of December 2025 and later,
where it was not tried; Triton 2.51 (24.10) takes the option and has not the metric. Until December 2025
decoupled models alone had it. Source: triton-inference-server/server, docs/user_guide/metrics.md,
"Histograms", and pull request 8580; triton-inference-server/core, pull request 396.
"""
GENERATOR = "tensorrt_llm"
"""The only model that the ranks beside the first one load."""


@dataclass(frozen=True)
class LaunchCommand:
    """Words to run, and what the environment needs beside its own."""

    words: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TritonArguments:
    """What every tritonserver of a launch is told; `prefix` tells its shared memory from other servers'.

    `server_id` is what the first one answers when it is asked who it is; `security`, what that one alone is
    told of certificates and keys, and `addresses` where it listens, since the others open no port. `drain_s`
    is for how long requests in flight may go on at its end; None is Triton's own 30 s.
    """

    repository: Path
    ports: Ports = field(default_factory=Ports)
    tritonserver: str = TRITONSERVER
    prefix: str = "prefix"
    log_file: str | None = None
    server_id: str | None = None
    drain_s: float | None = None
    security: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()


def leader_command(
    arguments: TritonArguments, *, world_size: int, oversubscribe: bool = False
) -> LaunchCommand:
    """One tritonserver per rank under mpirun: the first has all models, the others tensorrt_llm alone."""
    words = ["mpirun", "--allow-run-as-root", *(["--oversubscribe"] if oversubscribe else [])]
    for rank in range(world_size):
        words += [":"] if rank else []
        words += ["-n", "1", *_tritonserver(arguments, rank=rank)]
    return LaunchCommand(tuple(words))


def orchestrator_command(arguments: TritonArguments, *, num_gpus: int) -> LaunchCommand:
    """One tritonserver whose tensorrt_llm instances start processes of their own for their ranks; one node.

    Memory pools of CUDA are off, since the server itself must not hold memory on the ranks' GPUs.
    """
    pools = ["--pinned-memory-pool-byte-size=0", "--enable-peer-access=false"]
    pools += [f"--cuda-memory-pool-byte-size={gpu}:0" for gpu in range(num_gpus)]
    words = ["mpirun", "--allow-run-as-root", "-n", "1", *_tritonserver(arguments, rank=0, more=pools)]
    environment = {"TRTLLM_ORCHESTRATOR": "1", "TRTLLM_ORCHESTRATOR_SPAWN_PROCESSES": "1"}
    return LaunchCommand(tuple(words), environment)


def llmapi_command(arguments: TritonArguments, *, world_size: int) -> LaunchCommand:
    """Triton with the LLM API: alone for one rank, else under trtllm-llmapi-launch on every rank."""
    server = _tritonserver(arguments, rank=0)
    if world_size == 1:
        return LaunchCommand(tuple(server))
    return LaunchCommand(
        ("mpirun", "--allow-run-as-root", "-n", str(world_size), "trtllm-llmapi-launch", *server)
    )


def parse_devices(text: str | None, *, world_size: int) -> tuple[int, ...]:
    """The GPUs of a launch; the first `world_size` ones when none are given.

    Raises:
        UsageError: they are no numbers, one is given twice, or there are not as many as ranks.
    """
    if text is None:
        return tuple(range(world_size))
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() for part in parts):
        raise UsageError(f"--devices {text}: expected numbers, such as 0,1,2,3")
    devices = tuple(int(part) for part in parts)
    if len(set(devices)) != len(devices):
        raise UsageError(f"--devices {text}: a GPU is given twice")
    if len(devices) % world_size:
        raise UsageError(
            f"--devices {text}: {counted(len(devices), 'GPU')}, but an engine has "
            f"{counted(world_size, 'rank')}, one per GPU"
        )
    return devices


def _tritonserver(arguments: TritonArguments, *, rank: int, more: Iterable[str] = ()) -> list[str]:
    ports = arguments.ports
    words = [
        arguments.tritonserver,
        f"--model-repository={arguments.repository}",
        f"--http-port={ports.http}",
        f"--grpc-port={ports.grpc}",
        f"--metrics-port={ports.metrics}",
    ]
    if rank == 0:
        words += [HISTOGRAMS, *([f"--id={arguments.server_id}"] if arguments.server_id else [])]
        words += [*arguments.addresses, *arguments.security]
    if rank == 0 and arguments.log_file is not None:
        words += ["--log-verbose=1", f"--log-file={arguments.log_file}"]
    if rank > 0:
        words += ["--model-control-mode=explicit", f"--load-model={GENERATOR}"]
    if arguments.drain_s is not None:
        words.append(f"--exit-timeout-secs={math.ceil(arguments.drain_s)}")
    return [
        *words,
        *more,
        "--disable-auto-complete-config",
        f"--backend-config=python,shm-region-prefix-name={arguments.prefix}{rank}_",
    ]
