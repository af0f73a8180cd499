"""What every launch by TensorRT-LLM has: record, name, release, place, and what host and engine lack.

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

from tpforge.errors import EnvironmentUnusable, InputRefused
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


def container_of(release: Release) -> str:
    """This host when it has that very release, else docker."""
    from engines.host import find_host

    return "none" if dict(find_host().packages).get("tensorrt_llm") == release.trtllm else "docker"


def host_problems(
    places: Places,
    manifest: Manifest,
    *,
    release: Release,
    devices: Sequence[int],
    container: str,
    image: str | None,
) -> tuple[list[str], list[str]]:
    """What keeps the engine from running on this host, and what may; `image` None is no container."""
    from engines.host import container_problem, find_host, has_image
    from engines.runtime import find_doubts, find_misfits

    host = find_host()
    misfits = find_misfits(
        places.engine, manifest, host, release=release, devices=devices, container=container != "none"
    )
    doubts = find_doubts(host, release=release, devices=devices)
    if problem := container_problem(container) if image is not None else None:
        misfits.append(problem)
    elif image is not None and not has_image(container, image):
        doubts.append(
            f"{image}: not on this host; `{container} pull` it first, or its download counts as loading "
            "(--load-timeout)"
        )
    return misfits, doubts


def port_problems(recipe: ServeRecipe) -> list[str]:
    """The ports that are not free."""
    from triton_repo.serve.ports import Ports, refuse_used

    try:
        refuse_used(Ports.from_base(recipe.port_base), host=recipe.host)
    except EnvironmentUnusable as error:
        return [str(error)]
    return []


def tokenizer_problems(engine: Path) -> list[str]:
    """The tokenizer can be read, by the user that asks; a wrong one is told when the model is loaded."""
    file = engine / "tokenizer" / "tokenizer.json"
    try:
        json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return [f"{file}: cannot be read: {error} (tensorrtllm_backend 109)"]
    return []
