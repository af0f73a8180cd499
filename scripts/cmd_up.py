"""`tpforge up`: a recipe from model to proven server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from scripts import _options
from scripts._output import Output, table

if TYPE_CHECKING:
    from scripts.stages import Stage


@click.command("up")
@click.argument("recipe", type=click.Path(path_type=Path), metavar="RECIPE")
@_options.DRY_RUN
@_options.JSON
@_options.DEBUG
def command(recipe: Path, dry_run: bool, as_json: bool) -> None:
    """Do all of a recipe: build, verify, render, serve, smoke.

    RECIPE is a recipe.toml. A stage whose inputs are unchanged is skipped. The server stays; `tpforge stop`
    ends it.
    """
    from scripts import pipeline, stages
    from scripts._plans import print_plan
    from scripts.recipes import read_recipe

    output = Output(as_json=as_json)
    asked = read_recipe(recipe)
    if dry_run:
        print_plan(output, pipeline.plan_engine(asked))
        return
    done: list[Stage] = []
    try:
        run = stages.run_recipe(asked, progress=output.progress, on_stage=done.append)
    finally:
        print_stages(output, done)
    output.record("up", {"stages": stage_records(run.stages)})


def print_stages(output: Output, done: list[Stage]) -> None:
    """The table of what was done."""
    from scripts.stages import stage_rows

    if done:
        output.result(table(stage_rows(done), header=("stage", "time", "result")))


def stage_records(done: list[Stage]) -> list[dict[str, object]]:
    """The stages for --json."""
    return [
        {
            "name": stage.name,
            "seconds": round(stage.seconds, 3),
            "result": stage.result,
            "outcome": stage.outcome,
        }
        for stage in done
    ]
