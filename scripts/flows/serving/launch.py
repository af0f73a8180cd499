"""Serving an engine by TensorRT-LLM: the repository, the command, and what must be right before it runs.

Composes engines and triton_repo; it prints nothing. The reference runtime is served by `serve`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.flows.render import fresh_repository, kept_options
from scripts.flows.serving.front import companions_of
from scripts.flows.serving.launch_facts import Ground, Launch, ground_of, release_of
from scripts.flows.serving.launch_trtllm_serve import chosen_server, plan_trtllm_serve
from tpforge.errors import EnvironmentUnusable, UsageError
from tpforge.manifest import Manifest
from tpforge.outputs.places import Places
from tpforge.progress import Progress
from tpforge.recipe import ServeRecipe
from tpforge.repository_options import PytorchOptions, RepositoryOptions, TensorrtOptions
from tpforge.trtllm.versions import find_release

if TYPE_CHECKING:
    from triton_repo.serve.local import Server
    from triton_repo.serve.mpirun import LaunchCommand, TritonArguments
    from triton_repo.serve.security import Security


_LOAD_TIMEOUT_S = 1800.0
"""Large weights, and the first start of an engine's kernels."""


def is_launched(places: Places, options: RepositoryOptions | None) -> bool:
    """Whether the engine is served by TensorRT-LLM, and not by the reference runtime in its place.

    Raises:
        InputRefused: the engine is not sound.
    """
    from engines.store import read_manifest

    stand_in = isinstance(options, TensorrtOptions) and options.stand_in
    return read_manifest(places.engine).runtime != "reference" and not stand_in


def plan_launch(
    places: Places,
    recipe: ServeRecipe,
    *,
    options: RepositoryOptions | None,
    render: bool,
    security: Security | None = None,
) -> Launch:
    """The command that serves an engine, and everything that is wrong with host or engine.

    With `render` the repository beside the engine is written when it is missing or out of date.

    Raises:
        InputRefused: the engine is not sound.
        UsageError: mode, GPUs and container do not go together, or the administrator's key is none.
    """
    from engines.store import read_manifest
    from triton_repo.serve.security import Security

    if recipe.replicas > 1:
        raise UsageError(
            "--replicas: only for the reference runtime; for several of TensorRT-LLM use tpforge deploy"
        )
    guard = (security or Security()).absolute()
    guard.read_admin_key()
    manifest = read_manifest(places.engine)
    release = find_release(release_of(manifest))
    if chosen_server(recipe, manifest, release) != "triton":
        return plan_trtllm_serve(places, recipe, manifest, release, security=guard)
    _refuse_mode(manifest, recipe)
    chosen = options or kept_options(places, manifest)
    num_instances = _device_ids(chosen).count(";") + 1
    ground = ground_of(
        places, recipe, manifest, release, image=release.image, num_gpus=manifest.num_ranks * num_instances
    )
    repository = fresh_repository(places, options)[0] if render else places.repository
    misfits, doubts = ground.problems()
    misfits += _instance_problems(chosen, ground.devices)
    if num_instances > 1 and recipe.mode == "leader":
        misfits.append(f"gpu_device_ids: {num_instances} instances need --mode orchestrator")
    misfits += _repository_problems(repository, manifest, chosen)
    return ground.launch(
        repository, _command(ground, repository, guard), misfits=misfits, doubts=doubts, security=guard
    )


def serve_launch(
    launch: Launch,
    places: Places,
    recipe: ServeRecipe,
    *,
    detach: bool,
    progress: Progress,
    on_ready: Callable[[Server], None] | None = None,
) -> Server:
    """Run the command under a supervisor until it is stopped; detached, until the server has answered.

    Raises:
        EnvironmentUnusable: this host cannot run it, it cannot be started, or is not ready in time.
        InputRefused: it ended before it was ready; with the causes that its log shows, else the log's end.
    """
    from triton_repo.serve.launched import ContainerName, LaunchedProgram
    from triton_repo.serve.local import ServeOptions, serve
    from triton_repo.serve.ports import Ports
    from triton_repo.serve.start_time import start_seconds
    from triton_repo.serve.tritonserver import DRAIN_S

    if launch.misfits:
        raise EnvironmentUnusable("\n  ".join(["this engine cannot be served here:", *launch.misfits]))
    container = (
        None
        if launch.image is None
        else ContainerName(engine="podman" if launch.container == "podman" else "docker", name=launch.name)
    )
    program = LaunchedProgram(
        words=launch.command.words,
        environment=launch.command.environment,
        server_id=launch.name,
        container=container,
        shared_memory=f"{launch.name}-" if container is None else None,
        model=launch.model,
        api=launch.api,
        counts_steps=launch.counts_steps,
    )
    size = sum(file.size for file in launch.manifest.files)
    options = ServeOptions(
        state_dir=places.server,
        ports=Ports.from_base(recipe.port_base),
        host=recipe.host,
        load_timeout_s=recipe.load_timeout
        or max(_LOAD_TIMEOUT_S, start_seconds(size, runtime=launch.manifest.runtime)),
        drain_s=DRAIN_S if recipe.drain is None else recipe.drain,
        detach=detach,
        launch=program,
        security=launch.security,
        companions=companions_of(places, recipe, security=launch.security),
    )
    return serve(launch.repository, options=options, progress=progress, on_ready=on_ready)


def _refuse_mode(manifest: Manifest, recipe: ServeRecipe) -> None:
    if recipe.mode == "orchestrator" and manifest.runtime != "tensorrt":
        raise UsageError("--mode orchestrator: is for compiled engines; leave it out for runtime pytorch")


def _command(ground: Ground, repository: Path, security: Security) -> LaunchCommand:
    from triton_repo.serve.mpirun import leader_command, llmapi_command, orchestrator_command

    recipe, manifest = ground.recipe, ground.manifest
    arguments = _arguments(ground, repository, security)
    if manifest.runtime == "pytorch":
        command = llmapi_command(arguments, world_size=manifest.num_ranks)
    elif recipe.mode == "orchestrator":
        command = orchestrator_command(arguments, num_gpus=len(ground.devices))
    else:
        command = leader_command(arguments, world_size=manifest.num_ranks)
    return ground.placed(
        command,
        mounts=(repository.absolute(), ground.places.engine.resolve(), *security.mounts()),
        published=("HTTP", "gRPC", "metrics"),
        http_host=security.http_host(recipe.host),
    )


def _arguments(ground: Ground, repository: Path, security: Security) -> TritonArguments:
    """What every tritonserver of the launch is told."""
    from triton_repo.serve.mpirun import TRITONSERVER, TritonArguments
    from triton_repo.serve.ports import Ports

    recipe = ground.recipe
    is_here = ground.image is None
    return TritonArguments(
        repository=repository.absolute(),
        ports=Ports.from_base(recipe.port_base),
        tritonserver=str(recipe.tritonserver.absolute() if recipe.tritonserver else TRITONSERVER),
        # On this host the name keeps equal engines' regions apart, in containers nothing has to.
        prefix=f"{ground.name if is_here else ground.manifest.name}-",
        server_id=ground.name,
        drain_s=recipe.drain,
        security=tuple(security.arguments_without_key()),
        addresses=_addresses(recipe, security) if is_here else (),
    )


def _addresses(recipe: ServeRecipe, security: Security) -> tuple[str, ...]:
    """Where tritonserver listens on this host; in a container everywhere, whose ports are published."""
    http = security.http_host(recipe.host)
    return (f"--http-address={http}", f"--grpc-address={recipe.host}", f"--metrics-address={http}")


def _repository_problems(repository: Path, manifest: Manifest, options: RepositoryOptions) -> list[str]:
    """What is wrong with a repository that is there: someone may have edited it since it was rendered."""
    from triton_repo.render.check import check_llm_repository, check_repository

    if not repository.is_dir():
        return []
    if isinstance(options, PytorchOptions) and options.front == "llmapi":
        found = check_llm_repository(repository)
    else:
        found = check_repository(repository, runtime="front" if manifest.runtime == "pytorch" else "tensorrt")
    return [f"{repository}: {problem}; `tpforge render --force` writes it anew" for problem in found]


def _instance_problems(options: RepositoryOptions, devices: tuple[int, ...]) -> list[str]:
    """The launch numbers its GPUs anew, from 0, whatever their numbers on the host are."""
    text = _device_ids(options)
    ids = {int(word) for group in text.split(";") for word in group.split(",") if word.strip().isdigit()}
    if not ids or ids <= set(range(len(devices))):
        return []
    host = ",".join(map(str, devices))
    return [
        f"gpu_device_ids {text}: the server sees GPUs 0 to {len(devices) - 1}, this host's {host}; count "
        "from 0, and choose the host's by --devices"
    ]


def _device_ids(options: RepositoryOptions) -> str:
    """The GPUs of each instance, as upstream's parameter has them; only compiled engines have it."""
    return str(options.parameters.get("gpu_device_ids", "")) if isinstance(options, TensorrtOptions) else ""
