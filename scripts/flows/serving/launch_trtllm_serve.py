"""Serving an engine by trtllm-serve: whether that is what serves it, the command, what must be right.

Composes engines and triton_repo; it prints nothing and starts nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from scripts.flows.serving.launch_facts import Launch, ground_of, release_of
from tpforge.errors import UsageError
from tpforge.manifest import Manifest
from tpforge.outputs.places import Places
from tpforge.recipe import ServeRecipe
from tpforge.trtllm.versions import Release, find_release
from triton_repo.trtllm_serve.command import has_grpc

if TYPE_CHECKING:
    from triton_repo.serve.security import Security

__all__ = ["chosen_server", "is_trtllm_serve", "plan_trtllm_serve"]


def chosen_server(
    recipe: ServeRecipe, manifest: Manifest, release: Release
) -> Literal["triton", "trtllm-serve", "trtllm-grpc"]:
    """Triton where one of its containers holds the release, or is asked for; else trtllm-serve.

    Raises:
        UsageError: trtllm-serve is asked for an engine that it cannot load, or a release has no such server.
    """
    if recipe.server in ("trtllm-serve", "trtllm-grpc"):
        if manifest.runtime != "pytorch":
            raise UsageError(
                f"--server {recipe.server}: serves engines of runtime pytorch, this one is of "
                f"{manifest.runtime}; leave it out, or build it with --runtime pytorch"
            )
        if recipe.server == "trtllm-grpc" and not has_grpc(release.trtllm):
            raise UsageError(
                f"--server trtllm-grpc: TensorRT-LLM {release.trtllm} has no --grpc, 1.3 and later do; serve "
                "it by --server trtllm-serve, over OpenAI's API"
            )
        return recipe.server
    has_triton = bool(release.triton) or recipe.image is not None or recipe.tritonserver is not None
    if recipe.server == "triton":
        if not has_triton:
            raise UsageError(
                f"--server triton: no container of Triton holds TensorRT-LLM {release.trtllm}; leave it out "
                "for trtllm-serve, or give one with --image"
            )
        return "triton"
    return "triton" if manifest.runtime != "pytorch" or release.triton else "trtllm-serve"


def is_trtllm_serve(places: Places, recipe: ServeRecipe) -> bool:
    """Whether the engine is served by trtllm-serve, and so needs no model repository.

    Raises:
        InputRefused, UsageError: see `plan_trtllm_serve`.
    """
    from engines.store import read_manifest

    manifest = read_manifest(places.engine)
    if manifest.runtime != "pytorch":
        return False
    return chosen_server(recipe, manifest, find_release(release_of(manifest))) != "triton"


def plan_trtllm_serve(
    places: Places, recipe: ServeRecipe, manifest: Manifest, release: Release, *, security: Security
) -> Launch:
    """The command that serves an engine by trtllm-serve, and everything that is wrong with host or engine.

    Raises:
        UsageError: GPUs do not fit the ranks, or an option is given that trtllm-serve has not.
    """
    from triton_repo.serve.ports import Ports
    from triton_repo.trtllm_serve.command import TrtllmServe, trtllm_serve_command

    _refuse_triton_options(recipe, security)
    is_grpc = chosen_server(recipe, manifest, release) == "trtllm-grpc"
    ground = ground_of(
        places, recipe, manifest, release, image=release.release_image, num_gpus=manifest.num_ranks
    )
    misfits, doubts = ground.problems()
    engine = places.engine.resolve()
    asked = TrtllmServe(
        engine=engine,
        name=manifest.name,
        version=release.trtllm,
        port=Ports.from_base(recipe.port_base).grpc if is_grpc else recipe.port_base,
        grpc=is_grpc,
        # In a container everywhere: its port is published at the host's address alone.
        address=recipe.host if ground.image is None else "0.0.0.0",
        backend=manifest.llm_backend,
    )
    command = ground.placed(
        trtllm_serve_command(asked), mounts=(engine,), published=("gRPC",) if is_grpc else ("HTTP",)
    )
    return ground.launch(
        engine,
        command,
        misfits=misfits,
        doubts=doubts,
        security=security,
        model=asked.model_name,
        api="trtllm-grpc" if is_grpc else "openai",
    )


def _refuse_triton_options(recipe: ServeRecipe, security: Security) -> None:
    from triton_repo.serve.security import Security

    given = {
        "--tritonserver": recipe.tritonserver is not None,
        "--mode": recipe.mode != "leader",
        "--openai (trtllm-serve speaks it itself)": recipe.openai,
        "TLS and --admin-key-file": security != Security().absolute(),
    }
    names = ", ".join(name for name, is_given in given.items() if is_given)
    if names:
        raise UsageError(
            f"{names}: for Triton, and this engine is served by trtllm-serve, which has none of it; put a "
            "proxy with TLS before it where others reach it"
        )
