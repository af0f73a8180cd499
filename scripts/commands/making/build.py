"""`tpforge build`: a model as an engine folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from scripts.cli.meter import ByteMeter
from scripts.cli.options.common import DEBUG, DRY_RUN, FORCE, JSON, MODEL, RESUME, Amount, out_option
from scripts.cli.options.engine import engine_recipe
from scripts.cli.options.limits import limit_options
from scripts.cli.options.sharding import sharding_options
from scripts.cli.options.tensorrt_llm import tensorrt_llm_options
from scripts.cli.output import Output
from scripts.cli.show_plan import print_plan
from tpforge.units import counted, format_bytes

if TYPE_CHECKING:
    from scripts.flows.folders.planned_folder import Built
    from tpforge.recipe import EngineRecipe


@click.command("build")
@MODEL
@sharding_options()
@limit_options()
@tensorrt_llm_options()
@click.option("--name", help="Name of the engine.  [default: MODEL-tpN]")
@click.option(
    "--kv-cache",
    type=click.Choice(["int8", "fp8"]),
    help="Quantize the KV cache; its steps are measured on the passages that ship.",
)
@click.option(
    "--max-drop",
    type=Amount(min=0, min_open=True),
    help="Do not publish an engine whose quantization raised the perplexity by more than this fraction.",
)
@out_option("Where to write.  [default: out/NAME/engine]")
@RESUME
@FORCE
@DRY_RUN
@JSON
@DEBUG
def command(
    model: str, out: Path | None, resume: bool, force: bool, dry_run: bool, as_json: bool, **values: Any
) -> None:
    """Make an engine folder; converts first when needed.

    MODEL is a Hugging Face directory, a hub id (with @revision), a .gguf file, or `demo`. An engine that is
    there already, made of the same files with the same options, is kept as it is.

    The runtime is TensorRT-LLM's where this host has it and a GPU, else ours, and a line says why; --runtime
    names another. With --runtime tensorrt the engines are compiled by trtllm-build, here or in a container;
    with --runtime pytorch the folder holds the model and llm.yaml for TensorRT-LLM's LLM API. Both are
    checked against the release's own arguments before anything is written. --dry-run prints the commands.
    """
    from scripts.flows.build import build_engine, plan_engine
    from scripts.flows.runtime_choice import AUTO

    output = Output(as_json=as_json)
    if values["runtime"] == AUTO:
        values = _chosen(output, values)
    recipe = engine_recipe(model, values)
    if recipe.runtime != "reference":
        build = _tensorrt if recipe.runtime == "tensorrt" else _pytorch
        build(output, recipe, out=out, force=force, dry_run=dry_run)
        return
    if dry_run:
        print_plan(output, plan_engine(recipe, out=out))
        return
    built = build_engine(
        recipe,
        out=out,
        existing="replace" if force else "refuse",
        resume=resume,
        progress=output.progress,
        meter=ByteMeter(output),
    )
    _print_built(output, built)


def _chosen(output: Output, values: dict[str, Any]) -> dict[str, Any]:
    """The options with the runtime that auto means here, and where that is compiled."""
    from scripts.flows.runtime_choice import choose_here, with_choice

    choice = choose_here(values["trtllm"])
    output.note(choice.line)
    chosen = with_choice(values, choice)
    if choice.runtime == "tensorrt" and values["container"] == "none":
        chosen["container"] = choice.container
    return chosen


def _tensorrt(output: Output, recipe: EngineRecipe, *, out: Path | None, force: bool, dry_run: bool) -> None:
    from scripts.cli.show_compilation import print_compilation
    from scripts.flows import compile
    from scripts.flows.folders import compilation

    if dry_run:
        print_compilation(output, compilation.plan_compilation(recipe, out=out))
        return
    built = compile.compile_engine(
        recipe,
        out=out,
        existing="replace" if force else "refuse",
        progress=output.progress,
        meter=ByteMeter(output),
    )
    _print_built(output, built)


def _pytorch(output: Output, recipe: EngineRecipe, *, out: Path | None, force: bool, dry_run: bool) -> None:
    from scripts.cli.show_compilation import print_llm_engine
    from scripts.flows.folders import llm_engine

    if dry_run:
        print_llm_engine(output, llm_engine.plan_llm_engine(recipe, out=out))
        return
    existing: Literal["refuse", "replace"] = "replace" if force else "refuse"
    built = llm_engine.build_llm_engine(recipe, out=out, existing=existing, progress=output.progress)
    _print_built(output, built)


def _print_built(output: Output, built: Built) -> None:
    manifest = built.manifest
    for note in built.notes:
        output.note(f"note: {note}")
    for name, reason in manifest.dropped_tensors.items():
        output.note(f"left out: {name}: {reason}")
    if built.reused:
        output.note("unchanged: the same model and options; kept as it is (--force builds it again)")
    size = format_bytes(sum(file.size for file in manifest.files))
    mapping = manifest.mapping
    output.result(
        f"{built.places.engine}: tp={mapping.tp_size} pp={mapping.pp_size} {manifest.dtype}, "
        f"{counted(manifest.num_ranks, 'rank')}, {size}"
    )
    output.record(
        "build",
        {
            "path": str(built.places.engine),
            "reused": built.reused,
            "notes": list(built.notes),
            "engine": manifest.model_dump(mode="json"),
        },
    )
