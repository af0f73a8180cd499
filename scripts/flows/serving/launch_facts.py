"""What every launch by TensorRT-LLM stands on: record, name, release, place, what host and engine lack.

It plans no command; `launch` and `launch_trtllm_serve` do.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tpforge.errors import EnvironmentUnusable, InputRefused, UsageError
from tpforge.manifest import Manifest
from tpforge.outputs.places import Places
from tpforge.recipe import ServeRecipe
from tpforge.trtllm.versions import Release

if TYPE_CHECKING:
    from triton_repo.serve.mpirun import LaunchCommand
    from triton_repo.serve.security import Security


@dataclass(frozen=True)
class Launch:
    """What would be run; `misfits` keep it from running, `doubts` do not.

    `repository` is the folder that is served: a model repository by Triton, the engine by trtllm-serve, whose
    model is named `model` in OpenAI's API.
    """

    repository: Path
    release: Release
    manifest: Manifest
    devices: tuple[int, ...]
    container: str
    image: str | None
    mode: str
    command: LaunchCommand
    name: str
    misfits: tuple[str, ...]
    doubts: tuple[str, ...]
    security: Security
    model: str | None = None
    api: Literal["openai", "trtllm-grpc"] = "openai"

    @property
    def server(self) -> Literal["triton", "trtllm-serve", "trtllm-grpc"]:
        """What serves."""
        if self.model is None:
            return "triton"
        return "trtllm-grpc" if self.api == "trtllm-grpc" else "trtllm-serve"

    @property
    def counts_steps(self) -> bool:
        """Whether the LLM API tells of its iterations, so that a stuck server is told from a busy one."""
        api = self.manifest.llm_api
        return api is not None and bool(api.arguments.get("enable_iter_perf_stats"))

    @property
    def line(self) -> str:
        """The command for a shell."""
        from triton_repo.deploy.shell import join_lines

        settings = [f"{key}={value}" for key, value in self.command.environment.items()]
        return join_lines([*settings, *self.command.words], heads=(self.image or "", "mpirun"))


@dataclass(frozen=True)
class Ground:
    """What a launch stands on, whatever serves: engine, release, GPUs, and a container or this host."""

    places: Places
    recipe: ServeRecipe
    manifest: Manifest
    release: Release
    devices: tuple[int, ...]
    container: str
    image: str | None
    """None on this host."""

    @property
    def name(self) -> str:
        """Of container and server."""
        return name_of(self.places, self.manifest, self.recipe)

    def problems(self) -> tuple[list[str], list[str]]:
        """What keeps the engine from running here, and what may."""
        from engines.host import container_problem, find_host, has_image
        from engines.runtime import find_doubts, find_misfits

        host, release, devices = find_host(), self.release, self.devices
        in_container = self.image is not None
        misfits = find_misfits(
            self.places.engine, self.manifest, host, release=release, devices=devices, container=in_container
        )
        doubts = find_doubts(host, release=release, devices=devices)
        if problem := container_problem(self.container) if in_container else None:
            misfits.append(problem)
        elif self.image is not None and not has_image(self.container, self.image):
            doubts.append(
                f"{self.image}: not on this host; `{self.container} pull` it first, or its download "
                "counts as loading (--load-timeout)"
            )
        return [*misfits, *_port_problems(self.recipe), *_tokenizer_problems(self.places.engine)], doubts

    def placed(
        self,
        command: LaunchCommand,
        *,
        mounts: Sequence[Path],
        published: Sequence[str],
        http_host: str | None = None,
    ) -> LaunchCommand:
        """The command on this host's GPUs, or in the container, which sees `mounts` and publishes ports."""
        from triton_repo.serve.docker import Container, container_command
        from triton_repo.serve.mpirun import LaunchCommand
        from triton_repo.serve.ports import Ports

        if self.image is None:
            environment = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, self.devices)), **command.environment}
            return LaunchCommand(command.words, environment)
        around = Container(
            image=self.image,
            name=self.name,
            devices=self.devices,
            mounts=tuple(mounts),
            ports=Ports.from_base(self.recipe.port_base),
            host=self.recipe.host,
            http_host=http_host,
            engine="podman" if self.container == "podman" else "docker",
            published=tuple(published),
        )
        return container_command(around, command)

    def launch(
        self,
        repository: Path,
        command: LaunchCommand,
        *,
        misfits: Sequence[str],
        doubts: Sequence[str],
        security: Security,
        model: str | None = None,
        api: Literal["openai", "trtllm-grpc"] = "openai",
    ) -> Launch:
        """What would be run: the folder that is served, and the command that is already placed."""
        return Launch(
            repository=repository,
            release=self.release,
            manifest=self.manifest,
            devices=self.devices,
            container=self.container,
            image=self.image,
            mode=self.recipe.mode,
            command=command,
            name=self.name,
            misfits=tuple(misfits),
            doubts=tuple(doubts),
            security=security,
            model=model,
            api=api,
        )


def ground_of(
    places: Places,
    recipe: ServeRecipe,
    manifest: Manifest,
    release: Release,
    *,
    image: str | None,
    num_gpus: int,
) -> Ground:
    """The ground of a launch on `num_gpus`; `image` is the release's own, which the recipe's stands before.

    Raises:
        UsageError: the GPUs given are no multiple of that, or a container is wanted and none is known.
    """
    from triton_repo.serve.mpirun import parse_devices

    container = recipe.container if recipe.container != "auto" else _container_of(release)
    chosen = None if container == "none" else recipe.image or image
    if container != "none" and chosen is None:
        raise UsageError(f"TensorRT-LLM {release.trtllm}: no container is known for it; give --image")
    devices = parse_devices(recipe.devices, world_size=num_gpus)
    return Ground(places, recipe, manifest, release, devices, container, chosen)


def name_of(places: Places, manifest: Manifest, recipe: ServeRecipe) -> str:
    """Of container and server; equal engines on equal ports of two addresses differ by their folder."""
    folder = hashlib.sha256(str(places.server.resolve()).encode()).hexdigest()[:8]
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", manifest.name)[:100]
    return f"tpforge-{name}-{recipe.port_base}-{folder}"


def release_of(manifest: Manifest) -> str:
    """The TensorRT-LLM that an engine was made for.

    Raises:
        InputRefused: engine.json does not say.
    """
    if manifest.engine_build is not None:
        return manifest.engine_build.trtllm
    if manifest.llm_api is not None:
        return manifest.llm_api.trtllm
    raise InputRefused(
        f"{manifest.name}: engine.json does not say which TensorRT-LLM it is for; build it again"
    )


def _container_of(release: Release) -> str:
    """This host when it has that very release, else docker."""
    from engines.host import find_host

    return "none" if dict(find_host().packages).get("tensorrt_llm") == release.trtllm else "docker"


def _port_problems(recipe: ServeRecipe) -> list[str]:
    """The ports that are not free."""
    from triton_repo.serve.ports import Ports, refuse_used

    try:
        refuse_used(Ports.from_base(recipe.port_base), host=recipe.host)
    except EnvironmentUnusable as error:
        return [str(error)]
    return []


def _tokenizer_problems(engine: Path) -> list[str]:
    """The tokenizer can be read, by the user that asks; a wrong one is told when the model is loaded."""
    file = engine / "tokenizer" / "tokenizer.json"
    try:
        json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return [f"{file}: cannot be read: {error} (tensorrtllm_backend 109)"]
    return []
