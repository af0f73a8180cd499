"""The options of TensorRT-LLM's runtimes, each refused for another runtime. It knows no release."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from scripts.cli.options.common import VERSION, Decorator, together
from tpforge.errors import UsageError

SM = click.option(
    "--sm",
    type=click.IntRange(50, 200),
    help="Compute capability of the serving GPUs, 90 for Hopper.  [default: this host's]",
)


def tensorrt_llm_options() -> Decorator:
    """What the runtimes of TensorRT-LLM take: the release, the target GPUs, and upstream's own arguments."""
    return together(
        click.option(
            "--trtllm",
            type=VERSION,
            metavar="VERSION",
            help="Release of TensorRT-LLM; `tpforge versions` lists them.  [default: 1.2.1]",
        ),
        SM,
        click.option(
            "--optimize-for",
            type=click.Choice(["latency", "throughput", "memory"]),
            help="tensorrt: settings for a goal, each explained.",
        ),
        click.option(
            "--build-arg",
            "build_args",
            multiple=True,
            metavar="KEY=VALUE",
            help="tensorrt: an argument of trtllm-build; may be repeated.",
        ),
        click.option(
            "--container",
            type=click.Choice(["none", "docker", "podman", "slurm"]),
            default="none",
            show_default=True,
            help="tensorrt: run trtllm-build in the release's container.",
        ),
        click.option("--image", help="tensorrt: another container than the release's."),
        click.option(
            "--llm-arg",
            "llm_args",
            multiple=True,
            metavar="KEY=VALUE",
            help="pytorch: an argument of the LLM API, dots for levels; may be repeated.",
        ),
        click.option(
            "--llm-arg-unchecked",
            "llm_args_unchecked",
            multiple=True,
            metavar="KEY=VALUE",
            help="pytorch: one that the table of the release does not have or refuses; engine.json names it.",
        ),
        click.option(
            "--describe",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="pytorch: TOML with sizes of an architecture that is not known.",
        ),
    )


def option_of(field: str) -> str:
    """The option of a field of a recipe's table, which holds what the option gives once or several times."""
    return f"--{field.replace('_args', '_arg').replace('_', '-')}"


def refuse_other_runtimes(values: dict[str, Any]) -> None:
    """Options that the runtime would not look at are a mistake; a recipe may hold the tables of both.

    Raises:
        UsageError: one is given.
    """
    from tpforge.recipe import PytorchRecipe, TensorrtRecipe

    runtime = values.get("runtime", "reference")
    foreign = [
        f"{option_of(name)}: is for --runtime {of}, and this is {runtime}"
        for of, table in (("tensorrt", TensorrtRecipe()), ("pytorch", PytorchRecipe()))
        for name, default in table.model_dump().items()
        if of != runtime and values.get(name) not in (None, (), default)
    ]
    if foreign:
        raise UsageError("; ".join(foreign))
