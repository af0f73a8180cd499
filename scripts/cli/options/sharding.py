"""How a model is divided over ranks, in which type and format. It divides nothing."""

from __future__ import annotations

import click

from scripts.cli.options.common import SIZE, Decorator, together


def sharding_options() -> Decorator:
    """How the model is divided over ranks."""
    return together(
        click.option("--tp", type=SIZE, default=1, show_default=True, help="Tensor-parallel size."),
        click.option("--pp", type=SIZE, default=1, show_default=True, help="Pipeline-parallel size."),
        click.option(
            "--moe-ep",
            type=SIZE,
            default=1,
            show_default=True,
            help="Groups of ranks that hold different experts; divides tp.",
        ),
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
            type=click.Choice([0, 1]),
            help="Divide the embedding by vocabulary (0) or hidden size (1).  [default: not divided]",
        ),
        click.option(
            "--quantize", metavar="FORMAT", help="Quantize the weights; `tpforge formats` lists the formats."
        ),
        click.option(
            "--portable",
            is_flag=True,
            help="Leave the weights float and declare the format: trtllm-build quantizes them.",
        ),
    )
