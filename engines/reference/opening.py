"""Which executor runs an engine, on which device and in which dtype, when the user leaves it to us."""

from __future__ import annotations

import torch

from .config import EngineConfig, EngineError
from .executor import Executor
from .lockstep import Lockstep
from .process import attend_without_cudnn
from .ranks import Processes

AUTO_DTYPE = "float32"
"""Exact, and on the CPU as fast as bfloat16 for one request; on CUDA too: in bfloat16 an H200 answers
"L" where float32 says "The" by 0.10 of 25, less than a step of bfloat16."""


def open_executor(
    config: EngineConfig, *, kind: str, device: str, compute_dtype: str, num_slots: int
) -> Executor:
    """Open `kind` ("auto", "lockstep" or "processes") on `device` ("auto", "cpu" or "cuda").

    auto takes CUDA when there is any, one process per rank when every rank has a GPU of its own, and else
    lockstep; compute_dtype auto is `AUTO_DTYPE`. With ranks on CUDA in this process, torch no longer attends
    by cuDNN in it.

    Raises:
        EngineError: the device or the dtype cannot be had, or one process per rank has too few GPUs.
    """
    target = _device(device)
    if compute_dtype == "auto":
        compute_dtype = AUTO_DTYPE
    if compute_dtype not in ("float32", "float16", "bfloat16"):
        raise EngineError(f"compute_dtype {compute_dtype!r} is unknown; use float32, float16 or bfloat16")
    num_gpus = torch.cuda.device_count() if target.type == "cuda" else 0
    if kind == "auto":
        kind = "processes" if num_gpus >= config.world_size > 1 else "lockstep"
    if kind == "processes" and target.type == "cuda" and num_gpus < config.world_size:
        # NCCL takes a GPU once, and says so only after the ranks have started.
        raise EngineError(
            f"executor processes: {config.world_size} ranks need as many GPUs, found {num_gpus}; "
            "use executor lockstep, or device cpu"
        )
    if kind == "lockstep":
        if target.type == "cuda":
            attend_without_cudnn()
        return Lockstep(config, num_slots=num_slots, device=target, dtype=getattr(torch, compute_dtype))
    if kind == "processes":
        return Processes(config, num_slots=num_slots, device=target.type, compute_dtype=compute_dtype)
    raise EngineError(f"executor {kind!r} is unknown; use auto, lockstep or processes")


def device_name() -> str:
    """What device "auto" is here: ``cpu``, or ``cuda`` with the GPU's name."""
    device = _device("auto")
    return f"cuda, {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise EngineError("device cuda was asked for, but torch sees no CUDA GPU; use cpu or auto")
    return device
