"""`tpforge demo`: the whole way on a small real model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from scripts.cli.options.common import DEBUG, JSON, SIZE
from scripts.cli.output import Output

if TYPE_CHECKING:
    from scripts.flows.up import Stage


@click.command("demo")
@click.option("--tp", type=SIZE, default=4, show_default=True, help="Tensor-parallel size.")
@click.option(
    "--port-base",
    type=click.IntRange(1024, 65533),
    default=8000,
    show_default=True,
    help="HTTP port to try first; gRPC is the next one, metrics the one after.",
)
@click.option("--openai", is_flag=True, help="Install NVIDIA Dynamo, and ask through OpenAI's API too.")
@click.option("--keep", is_flag=True, help="Leave the server running; `tpforge stop` ends it.")
@JSON
@DEBUG
def command(tp: int, port_base: int, openai: bool, keep: bool, as_json: bool) -> None:
    """Take the demo model the whole way, ask it a question, stop.

    Fetches SmolLM2-135M-Instruct, builds an engine, proves it, renders its repository, serves it with
    Triton, runs the smoke test, asks for the capital of France. A second run skips what is unchanged.
    """
    from scripts.cli.show_steps import print_steps, step_records
    from scripts.flows import up
    from tpforge.recipe import Recipe, ServeRecipe

    output = Output(as_json=as_json)
    recipe = Recipe(model="demo", tp=tp, serve=ServeRecipe(port_base=port_base, openai=openai))
    done: list[Stage] = []
    try:
        run = up.run_demo(recipe, keep=keep, progress=output.progress, on_stage=done.append)
    finally:
        print_steps(output, done)
    if keep:
        output.note('ask it more with: tpforge generate --chat "..."; stop it with: tpforge stop')
    output.record("demo", {"stages": step_records(run.stages)})
