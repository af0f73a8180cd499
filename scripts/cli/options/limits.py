"""What a server of an engine accepts, and which runtime runs it. It checks nothing against a model."""

from __future__ import annotations

import click

from scripts.cli.options.common import SIZE, Decorator, together


def limit_options() -> Decorator:
    """What a server of the engine accepts, and which runtime runs it."""
    return together(
        click.option(
            "--max-batch-size", type=SIZE, default=8, show_default=True, help="Requests in flight at once."
        ),
        click.option(
            "--max-input-len", type=SIZE, help="Tokens of a prompt.  [default: half of max-seq-len]"
        ),
        click.option(
            "--max-seq-len",
            type=SIZE,
            help="Tokens of prompt and answer.  [default: the model's positions, at most 2048]",
        ),
        click.option(
            "--runtime",
            type=click.Choice(["auto", "reference", "tensorrt", "pytorch"]),
            default="auto",
            show_default=True,
            help="What runs the engine: ours, compiled TensorRT-LLM engines, or TensorRT-LLM's LLM API; "
            "auto: TensorRT-LLM where this host has it and a GPU, else ours.",
        ),
    )
