"""`tpforge inspect`: what a checkpoint holds, what is wrong with it, how it divides, who can serve it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from scripts.cli.meter import ByteMeter
from scripts.cli.options.common import DEBUG, DESCRIBE, JSON, MODEL, SIZE
from scripts.cli.output import Output
from scripts.reports.columns import table

if TYPE_CHECKING:
    from builders.inspection import Division, Inspection


@click.command("inspect")
@MODEL
@click.option("--tp", type=SIZE, default=1, show_default=True, help="Tensor-parallel size.")
@click.option("--pp", type=SIZE, default=1, show_default=True, help="Pipeline-parallel size.")
@click.option(
    "--moe-ep",
    type=SIZE,
    default=1,
    show_default=True,
    help="Groups of ranks that hold different experts; divides tp.",
)
@click.option("--deep", is_flag=True, help="Read every weight and look for NaN and infinite values.")
@DESCRIBE
@JSON
@DEBUG
def command(
    model: str, tp: int, pp: int, moe_ep: int, deep: bool, describe: Path | None, as_json: bool
) -> None:
    """Show what a checkpoint holds and how it divides over ranks.

    MODEL is a Hugging Face directory, a hub id (with @revision), a .gguf file, or `demo`. It is described as
    far as it can be; then every problem that would keep it from being converted is listed, and the exit
    status is 4 when there is one. Only headers and configs are read, but for --deep.
    """
    from scripts.flows.inspect import inspect_model
    from tpforge.shards.mapping import Mapping

    output = Output(as_json=as_json)
    mapping = Mapping(tp_size=tp, pp_size=pp, moe_ep_size=moe_ep)
    meter = ByteMeter(output, verb="looked at")
    found = inspect_model(model, mapping=mapping, deep=deep, describe=describe, progress=meter)
    output.record("inspection", found.to_dict())
    _print(found, output)
    _refuse(found, model)


def _print(found: Inspection, output: Output) -> None:
    from builders.inspection import summary
    from tpforge.units import format_bytes

    output.result(table([*summary(found.survey), *found.facts], header=("what", "value")))
    files = [(name, format_bytes(size), str(size)) for name, size in found.survey.files]
    output.result("\n" + table(files, header=("file", "size", "bytes")))
    runtimes = [
        (one.runtime, "yes" if one.serves else "no", one.versions or "-", one.reason)
        for one in found.runtimes
    ]
    output.result("\n" + table(runtimes, header=("runtime", "serves", "TensorRT-LLM", "how, or why not")))
    for name, divisions in (("tp", found.divisions), ("pp", found.stages)):
        if divisions:
            header = ("ranks", "largest", "all", "padding", "division")
            output.result("\n" + table([_row(name, one) for one in divisions], header=header))
    if found.asked is not None and found.asked.rank_bytes is not None:
        asked = found.asked
        ranks = [(f"rank{rank}.safetensors", str(size)) for rank, size in enumerate(asked.rank_bytes or ())]
        mapping = f"at tp={asked.tp} pp={asked.pp} moe-ep={asked.moe_ep}"
        output.result("\n" + table(ranks, header=(mapping, "bytes")))
    for name, reason in found.survey.dropped.items():
        output.note(f"left out: {name}: {reason}")
    for note in found.survey.notes:
        output.note(f"note: {note}")
    for warning in found.survey.warnings:
        output.note(f"warning: {warning}")


def _row(name: str, one: Division) -> tuple[str, str, str, str, str]:
    from tpforge.units import format_bytes

    size = one.tp if name == "tp" else one.pp
    if one.rank_bytes is None:
        return (f"{name}={size}", "-", "-", "-", one.division)
    cost = format_bytes(one.padding_bytes) if one.padding_bytes else "none"
    return (
        f"{name}={size}",
        format_bytes(max(one.rank_bytes)),
        format_bytes(sum(one.rank_bytes)),
        cost,
        one.division,
    )


def _refuse(found: Inspection, model: str) -> None:
    """Raise InputRefused with the problems, when there are any."""
    from builders.audit.tensors import grouped
    from tpforge.errors import InputRefused

    if found.problems:
        count = len(found.problems)
        headline = f"{model}: {count} problem{'s' if count > 1 else ''}:"
        raise InputRefused.listing(headline, grouped(found.problems))
