"""`tpforge up`: a recipe from model to proven server."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scripts.cli.options.common import DEBUG, DRY_RUN, JSON
from scripts.cli.output import Output
from scripts.cli.show_steps import print_steps, step_records

if TYPE_CHECKING:
    from scripts.flows.up import Stage
    from tpforge.recipe import Recipe


@click.command("up")
@click.argument("recipe", type=click.Path(path_type=Path), metavar="RECIPE")
@DRY_RUN
@JSON
@DEBUG
def command(recipe: Path, dry_run: bool, as_json: bool) -> None:
    """Do all of a recipe: build, verify, render, serve, smoke.

    RECIPE is a recipe.toml. A stage whose inputs are unchanged is skipped. The server stays; `tpforge stop`
    ends it. For runtime tensorrt the rank files are verified, not the compiled engines; for runtime pytorch
    there are none to verify.
    """
    from scripts.cli.show_plan import print_plan
    from scripts.flows import build, up
    from tpforge.recipe import read_recipe

    output = Output(as_json=as_json)
    asked = read_recipe(recipe, choose=partial(_chosen, output))
    if dry_run:
        if asked.runtime == "reference":
            print_plan(output, build.plan_engine(asked))
        else:
            _print_commands(output, asked)
        return
    done: list[Stage] = []
    try:
        run = up.run_recipe(asked, progress=output.progress, on_stage=done.append)
    finally:
        print_steps(output, done)
    output.record("up", {"stages": step_records(run.stages)})


def _chosen(output: Output, values: dict[str, Any]) -> dict[str, Any]:
    """The recipe's values with the runtime that auto means here, and where that is compiled."""
    from scripts.flows.runtime_choice import choose_here, with_choice

    # What is no text is refused with the rest of the recipe.
    trtllm = values.get("trtllm")
    choice = choose_here(trtllm if isinstance(trtllm, str) else None)
    output.note(choice.line)
    chosen = with_choice(values, choice)
    if choice.runtime == "tensorrt":
        chosen["tensorrt"] = {"container": choice.container, **values.get("tensorrt", {})}
    return chosen


def _print_commands(output: Output, recipe: Recipe) -> None:
    """What would be run for TensorRT-LLM's runtimes; the server's command once there is an engine."""
    from scripts.cli.show_compilation import print_compilation, print_llm_engine
    from scripts.flows.folders import llm_engine
    from scripts.flows.folders.compilation import plan_compilation
    from scripts.flows.serving.launch import plan_launch
    from tpforge.outputs.places import Places

    if recipe.runtime == "tensorrt":
        compilation = plan_compilation(recipe, out=None)
        print_compilation(output, compilation)
        out = compilation.out
    else:
        engine = llm_engine.plan_llm_engine(recipe, out=None)
        print_llm_engine(output, engine)
        out = engine.out
    if not (out / "engine.json").is_file():
        serve = f"tpforge serve {shlex.quote(str(out))} --dry-run"
        output.note(f"then the server: `{serve}` says how, once the engine is there")
        return
    options = recipe.repository
    launch = plan_launch(Places(out), recipe.serve, options=options, render=False)
    output.result(f"\nserve:\n$ {launch.line}")
    for line in launch.misfits:
        output.note(f"would be refused on this host: {line}")
