"""What nearly every command takes: MODEL or ENGINE, --json, --debug, --force, --out. It acts on nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Function = Callable[..., Any]
Decorator = Callable[[Function], Function]

SIZE = click.IntRange(min=1)
COUNT = click.IntRange(min=0)


class Amount(click.FloatRange):
    """A number of a range that is one: `nan` lies in every range and beyond no limit, `inf` never ends."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number; click's own check lets through what compares with nothing."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class Version(click.ParamType[str]):
    """A release of TensorRT-LLM, as upstream spells it, however it was written."""

    name = "version"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The version; what is none is refused with those that may be meant."""
        from tpforge.trtllm.versions import read_version

        return read_version(value)


VERSION = Version()


def together(*decorators: Decorator) -> Decorator:
    """Several option decorators as one, in the order in which --help lists them."""

    def apply(function: Function) -> Function:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


MODEL = click.argument("model", metavar="MODEL")
"""A Hugging Face directory, a hub id (with @revision), a .gguf file, or `demo`."""

ENGINE = click.argument("engine", metavar="[ENGINE]", required=False)
"""An engine folder, or its name under out/; without it the newest one there."""

DESCRIBE = click.option(
    "--describe",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="TOML with sizes of an architecture that is not known.",
)
DEBUG = click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
RESUME = click.option(
    "--resume", is_flag=True, help="Go on where an interrupted run stopped; its bytes are hashed again first."
)
FORCE = click.option("--force", is_flag=True, help="Replace an existing output.")
PRIMARY = click.option(
    "--primary",
    default="output_token_throughput",
    show_default=True,
    metavar="METRIC[:STATISTIC]",
    help="The metric that is to decide: judged first, at half of the 5 % of false verdicts.",
)
DRY_RUN = click.option("--dry-run", is_flag=True, help="Say what would be done, and write nothing.")


def out_option(help_text: str) -> Decorator:
    """`--out PATH` with the default named in the help."""
    return click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help=help_text)
