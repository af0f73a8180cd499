"""`tpforge serve`: Triton on an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from scripts.cli.options.common import DEBUG, DRY_RUN, ENGINE, JSON
from scripts.cli.options.security import read_security, security_options
from scripts.cli.options.server import server_options
from scripts.cli.output import Output
from scripts.cli.show_server import print_launch, print_ready
from tpforge.errors import UsageError

if TYPE_CHECKING:
    from scripts.flows.serving.launch_facts import Launch
    from tpforge.outputs.places import Places
    from tpforge.recipe import ServeRecipe
    from tpforge.repository_options import TensorrtOptions
    from triton_repo.serve.security import Security


@click.command("serve")
@ENGINE
@server_options()
@click.option(
    "--stand-in",
    is_flag=True,
    help="Serve an engine of runtime tensorrt by the reference runtime, without a GPU.",
)
@security_options()
@DRY_RUN
@click.option("--detach", is_flag=True, help="Return when it answers; `tpforge stop` ends it.")
@JSON
@DEBUG
def command(
    engine: str | None, stand_in: bool, dry_run: bool, detach: bool, as_json: bool, **values: Any
) -> None:
    """Start Triton on an engine and wait until it answers.

    ENGINE is a folder, or a name under out/; without it the newest one there. Its model repository is
    rendered first when it is missing or out of date. Without --detach it runs until Ctrl-C. A server or a
    model process that dies is started again.

    An engine of runtime tensorrt or pytorch is served by TensorRT-LLM, here or in its container, once GPUs,
    memory, driver, versions, ports and files have been checked; --dry-run prints the command and what is
    wrong. From release 1.3 on there is no Triton with TensorRT-LLM: trtllm-serve serves, over OpenAI's HTTP.
    """
    from scripts.flows.serving.launch import is_launched
    from scripts.flows.serving.replicas import serve_replicas
    from tpforge.outputs.places import find_engine
    from tpforge.recipe import ServeRecipe

    output = Output(as_json=as_json)
    places = find_engine(engine)
    if engine is None:
        output.note(f"engine: {places.engine} (the newest)")
    security = read_security(values)
    recipe = ServeRecipe(**values)
    options = _stand_in(places) if stand_in else None
    if is_launched(places, options):
        _serve_launched(output, places, recipe, security, dry_run=dry_run, detach=detach)
        return
    _refuse_launched_options(recipe, dry_run=dry_run, stand_in=stand_in)
    serve_replicas(
        places,
        recipe,
        options=options,
        detach=detach,
        progress=output.progress,
        on_ready=lambda server: print_ready(output, server, engine=places.engine, detach=detach),
        security=security,
    )


def _serve_launched(
    output: Output, places: Places, recipe: ServeRecipe, security: Security, *, dry_run: bool, detach: bool
) -> None:
    """Serve by TensorRT-LLM, or show how it would be."""
    from scripts.flows.serving.launch import serve_launch

    launch = _planned(output, places, recipe, dry_run=dry_run, security=security)
    if dry_run:
        print_launch(output, launch)
        return
    output.note(
        f"serving {launch.manifest.name} with TensorRT-LLM {launch.release.trtllm} by {launch.server}"
    )
    serve_launch(
        launch,
        places,
        recipe,
        detach=detach,
        progress=output.progress,
        on_ready=lambda server: print_ready(output, server, engine=places.engine, detach=detach),
    )


def _refuse_launched_options(recipe: ServeRecipe, *, dry_run: bool, stand_in: bool) -> None:
    """What only a launch by TensorRT-LLM looks at.

    Raises:
        UsageError: it is given.
    """
    given = {
        "--dry-run": dry_run,
        "--server": recipe.server not in ("auto", "triton"),
        "--container": recipe.container not in ("auto", "none"),
        "--image": recipe.image is not None,
        "--mode": recipe.mode != "leader",
        "--devices": recipe.devices is not None,
    }
    names = ", ".join(name for name, is_given in given.items() if is_given)
    if names:
        by = "--stand-in serves by" if stand_in else "this engine is of"
        raise UsageError(f"{names}: for TensorRT-LLM; {by} the reference runtime")


def _stand_in(places: Places) -> TensorrtOptions:
    """The options that the repository was rendered with, but by the reference runtime.

    Raises:
        UsageError: the engine is not of runtime tensorrt.
    """
    from engines.store import read_manifest
    from scripts.flows.render import kept_options
    from tpforge.repository_options import TensorrtOptions

    manifest = read_manifest(places.engine)
    kept = kept_options(places, manifest)
    if not isinstance(kept, TensorrtOptions):
        runtime = manifest.runtime
        raise UsageError(f"--stand-in: is for engines of runtime tensorrt; {places.engine} is of {runtime}")
    return kept.model_copy(update={"stand_in": True})


def _planned(
    output: Output, places: Places, recipe: ServeRecipe, *, dry_run: bool, security: Security
) -> Launch:
    """The launch of an engine by TensorRT-LLM; what is doubtful about it is said."""
    from scripts.flows import serve
    from scripts.flows.serving.launch import plan_launch

    if not dry_run:
        serve.refuse_running(places)  # Else its own ports would be what is wrong.
    launch = plan_launch(places, recipe, options=None, render=not dry_run, security=security)
    for line in launch.doubts:
        output.note(f"warning: {line}")
    return launch
