"""A build as a command line: on this host, in a container, or under Slurm; and as a script.

Every command runs in the engine folder and names its parts relatively, so that it is the same wherever the
folder lies. It starts nothing: `run` does.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from builders.tensorrt.plan import CHECKPOINT, ENGINE, BuildPlan
from tpforge.errors import UsageError

Where = Literal["host", "docker", "podman", "slurm"]
PROGRAM = "trtllm-build"
_MOUNT = "/engine"


@dataclass(frozen=True)
class BuildCommand:
    """The words of a command, and the folder that it is run in."""

    words: tuple[str, ...]
    folder: Path

    @property
    def line(self) -> str:
        """The command for a shell, one argument a line."""
        image = next((word for word in self.words if word.startswith("nvcr.io/")), "")
        return join_lines(self.words, heads=(image, PROGRAM))


def build_words(plan: BuildPlan) -> tuple[str, ...]:
    """trtllm-build with its arguments, in the order of upstream's own help."""
    words = [PROGRAM, "--checkpoint_dir", CHECKPOINT, "--output_dir", ENGINE]
    for name, value in plan.arguments.items():
        words += _argument(name, value)
    return tuple(words)


def build_command(plan: BuildPlan, *, where: Where, folder: Path, image: str | None = None) -> BuildCommand:
    """The build of a plan in `folder`, which holds the checkpoint.

    Raises:
        UsageError: a container is asked for, but none is listed for the release and none is given.
    """
    words = build_words(plan)
    if where == "host":
        return BuildCommand(words, folder)
    found = image or plan.target.release.image
    if found is None:
        raise UsageError(
            f"TensorRT-LLM {plan.target.release.trtllm}: no Triton container is listed for it; give --image"
        )
    gpus = min(plan.arguments["workers"], plan.target.checkpoint.world_size)
    around = {"docker": _docker, "podman": _podman, "slurm": _slurm}[where]
    return BuildCommand((*around(found, folder, gpus), *words), folder)


def build_script(command: BuildCommand, plan: BuildPlan) -> str:
    """The command as a script that is put into the engine folder, with what it was made for."""
    release = plan.target.release
    sm = f"SM {plan.target.sm}" if plan.target.sm else "the GPU that it is run on"
    return (
        "#!/bin/sh\n"
        f"# Builds the engines of this folder with TensorRT-LLM {release.trtllm} for {sm}.\n"
        "# Written by tpforge. It was not run when this was written.\n"
        "set -eu\n"
        'cd "$(dirname "$0")"\n'
        f"{command.line}\n"
    )


def join_lines(words: Iterable[str], *, heads: Iterable[str] = ()) -> str:
    """Words for a shell: an option a line, and each of `heads` at the start of one."""
    lines: list[list[str]] = [[]]
    firsts = set(heads)
    for word in words:
        if (word.startswith("-") or word in firsts) and lines[-1]:
            lines.append([])
        lines[-1].append(shlex.quote(word))
    return " \\\n  ".join(" ".join(line) for line in lines)


def _argument(name: str, value: Any) -> list[str]:
    if value is True:
        return [f"--{name}"]
    if value is False:
        return []
    return [f"--{name}", *(str(one) for one in (value if isinstance(value, list) else [value]))]


def _docker(image: str, folder: Path, gpus: int) -> tuple[str, ...]:
    devices = ",".join(str(number) for number in range(gpus))
    return (
        *("docker", "run", "--rm"),
        *("--gpus", f'"device={devices}"'),
        *_limits(),
        *("--user", f"{os.getuid()}:{os.getgid()}"),
        *("--env", "HOME=/tmp"),
        *("--volume", f"{folder}:{_MOUNT}"),
        *("--workdir", _MOUNT),
        image,
    )


def _podman(image: str, folder: Path, gpus: int) -> tuple[str, ...]:
    devices = [word for number in range(gpus) for word in ("--device", f"nvidia.com/gpu={number}")]
    return (
        *("podman", "run", "--rm"),
        *devices,
        *_limits(),
        *("--env", "HOME=/tmp"),
        *("--volume", f"{folder}:{_MOUNT}"),
        *("--workdir", _MOUNT),
        image,
    )


def _slurm(image: str, folder: Path, gpus: int) -> tuple[str, ...]:
    """Under Slurm with pyxis and enroot, which write a registry as ``host#path``."""
    return (
        *("srun", "--nodes=1", "--ntasks=1"),
        f"--gpus={gpus}",
        f"--container-image={image.replace('/', '#', 1)}",
        f"--container-mounts={folder}:{_MOUNT}",
        f"--container-workdir={_MOUNT}",
    )


def _limits() -> tuple[str, ...]:
    """Shared memory for the ranks, pinned memory, and the stack that TensorRT wants."""
    return ("--shm-size", "16g", "--ulimit", "memlock=-1", "--ulimit", "stack=67108864")
