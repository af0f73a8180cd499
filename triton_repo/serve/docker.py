"""A launch inside the NGC container of a release: docker or podman, with what TensorRT-LLM needs.

It starts nothing. Folders are mounted under their own paths, so that a repository holds inside too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from triton_repo.serve.mpirun import LaunchCommand
from triton_repo.serve.ports import Ports

Engine = Literal["docker", "podman"]
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
"""Everything that is served lies in the engine folder; nothing may be fetched while loading."""


@dataclass(frozen=True)
class Container:
    """How the container is run; `shm_gib` is what Triton's models and NCCL share.

    gRPC is reached at `host`, HTTP and metrics at `http_host`, or there too when that is None. `published`
    are the ports that it has, by their names.
    """

    image: str
    name: str
    devices: tuple[int, ...]
    mounts: tuple[Path, ...]
    ports: Ports = field(default_factory=Ports)
    host: str = "127.0.0.1"
    http_host: str | None = None
    shm_gib: int = 16
    engine: Engine = "docker"
    published: tuple[str, ...] = ("HTTP", "gRPC", "metrics")


def container_command(container: Container, command: LaunchCommand) -> LaunchCommand:
    """The command, run in the container."""
    words: list[str] = [container.engine, "run", "--rm", "--name", container.name]
    words += _gpus(container)
    words += ["--shm-size", f"{container.shm_gib}g", "--ulimit", "memlock=-1", "--ulimit", "stack=67108864"]
    for name, port in container.ports.named():
        if name not in container.published:
            continue
        host = container.host if name == "gRPC" else container.http_host or container.host
        words += ["--publish", f"{host}:{port}:{port}"]
    for mount in sorted(set(container.mounts)):
        words += ["--volume", f"{mount}:{mount}:ro"]
    for name, value in {**_OFFLINE, **command.environment}.items():
        words += ["--env", f"{name}={value}"]
    return LaunchCommand((*words, container.image, *command.words))


def _gpus(container: Container) -> Iterable[str]:
    """Podman takes a device a GPU by CDI; docker wants the quotes, or it takes the comma for its own."""
    if container.engine == "podman":
        return [word for gpu in container.devices for word in ("--device", f"nvidia.com/gpu={gpu}")]
    return ["--gpus", f'"device={",".join(map(str, container.devices))}"']
