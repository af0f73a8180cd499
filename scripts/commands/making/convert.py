"""`tpforge convert`: a TensorRT-LLM checkpoint, without the engine around it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scripts.cli.meter import ByteMeter
from scripts.cli.options.common import DEBUG, DRY_RUN, FORCE, JSON, MODEL, RESUME, out_option
from scripts.cli.options.engine import engine_recipe
from scripts.cli.options.sharding import sharding_options
from scripts.cli.options.tensorrt_llm import SM
from scripts.cli.output import Output
from scripts.cli.show_plan import print_plan
from tpforge.units import counted, format_bytes

if TYPE_CHECKING:
    from tpforge.quantization import Quantization


@click.command("convert")
@MODEL
@sharding_options()
@click.option(
    "--runtime",
    type=click.Choice(["reference", "tensorrt"]),
    default="reference",
    show_default=True,
    help="Whose loader reads it; INT4 in groups lies in another order for TensorRT-LLM.",
)
@SM
@out_option("Where to write.  [default: out/NAME-tpN/checkpoint]")
@RESUME
@FORCE
@DRY_RUN
@JSON
@DEBUG
def command(
    model: str, out: Path | None, resume: bool, force: bool, dry_run: bool, as_json: bool, **values: Any
) -> None:
    """Write a TensorRT-LLM checkpoint: config.json and one file per rank.

    MODEL is a Hugging Face directory, a hub id (with @revision), a .gguf file, or `demo`.
    """
    from scripts.flows import convert

    output = Output(as_json=as_json)
    recipe = engine_recipe(model, values)
    if dry_run:
        print_plan(output, convert.plan_checkpoint(recipe, out=out))
        return
    output.progress(f"converting {model}")
    folder, conversion = convert.convert_checkpoint(
        recipe,
        out=out,
        force=force,
        resume=resume,
        progress=output.progress,
        meter=ByteMeter(output),
    )
    for note in (*conversion.notes, *_order_notes(conversion.plan.quantization)):
        output.note(f"note: {note}")
    for name, reason in conversion.dropped.items():
        output.note(f"left out: {name}: {reason}")
    size = sum(file.size for file in conversion.files)
    output.result(f"{folder}: {counted(conversion.plan.mapping.world_size, 'rank')}, {format_bytes(size)}")
    output.record(
        "checkpoint",
        {
            "path": str(folder),
            "dtype": conversion.dtype.value,
            "mapping": conversion.plan.mapping.model_dump(),
            "files": [file.model_dump() for file in conversion.files],
            "dropped_tensors": conversion.dropped,
            "notes": list(conversion.notes),
        },
    )


def _order_notes(quantization: Quantization | None) -> tuple[str, ...]:
    """For whom the integers of INT4 in groups lie as they do: no rank file says it."""
    from tpforge.shards.weight_order import ORDERED

    if quantization is None or quantization.format not in ORDERED:
        return ()
    if quantization.order == "plain":
        return ("integers in plain order, for the runtime reference; --runtime tensorrt is for trtllm-build",)
    return (f"integers in order {quantization.order}, for trtllm-build",)
