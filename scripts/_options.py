"""The options that several commands share: the same word means the same thing everywhere.

It does not act on them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., object])
Decorator = Callable[[Command], Command]

SIZE = click.IntRange(min=1)


def options(*decorators: Decorator[Command]) -> Decorator[Command]:
    """Several option decorators as one, in the order in which --help lists them."""

    def apply(function: Command) -> Command:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


MODEL = click.argument("model", metavar="MODEL")
"""A Hugging Face directory, a hub id (with @revision), a .gguf file, or `demo`."""

ENGINE = click.argument("engine", metavar="[ENGINE]", required=False)
"""An engine folder, or its name under out/; without it the newest one there."""

DEBUG = click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
FORCE = click.option("--force", is_flag=True, help="Replace an existing output.")
DRY_RUN = click.option("--dry-run", is_flag=True, help="Say what would be done, and write nothing.")


def out(help_text: str) -> Decorator[Command]:
    """`--out PATH` with the default named in the help."""
    return click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help=help_text)


def sharding() -> Decorator[Command]:
    """How the model is divided over ranks."""
    return options(
        click.option("--tp", type=SIZE, default=1, show_default=True, help="Tensor-parallel size."),
        click.option("--pp", type=SIZE, default=1, show_default=True, help="Pipeline-parallel size."),
        click.option(
            "--dtype",
            type=click.Choice(["bfloat16", "float16", "float32"]),
            help="Type of the weights.  [default: the checkpoint's]",
        ),
        click.option(
            "--pad/--no-pad",
            default=True,
            show_default=True,
            help="Add zero heads and columns where tp does not divide them, or refuse.",
        ),
        click.option(
            "--parallel-embedding",
            type=click.Choice(["0", "1"]),
            help="Divide the embedding by vocabulary (0) or by hidden size (1).  [default: whole on each rank]",
        ),
    )


def limits() -> Decorator[Command]:
    """What a server of the engine accepts, and which runtime runs it."""
    return options(
        click.option(
            "--max-batch-size", type=SIZE, default=8, show_default=True, help="Requests in flight at once."
        ),
        click.option("--max-input-len", type=SIZE, help="Tokens of a prompt.  [default: half of max-seq-len]"),
        click.option(
            "--max-seq-len",
            type=SIZE,
            help="Tokens of prompt and answer.  [default: the model's positions, at most 2048]",
        ),
        click.option(
            "--runtime",
            type=click.Choice(["reference", "tensorrt", "pytorch"]),
            default="reference",
            show_default=True,
            help="What runs the engine; this version builds for reference.",
        ),
    )


def server() -> Decorator[Command]:
    """Where and how Triton runs."""
    return options(
        click.option(
            "--port-base",
            type=click.IntRange(1024, 65533),
            default=8000,
            show_default=True,
            help="HTTP port; gRPC is the next one, metrics the one after.",
        ),
        click.option(
            "--tritonserver",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="The server's binary.  [default: on PATH, else the one of nvidia-pytriton]",
        ),
        click.option(
            "--load-timeout",
            type=click.FloatRange(min=1),
            default=300,
            show_default=True,
            help="Seconds for all models to load.",
        ),
    )
