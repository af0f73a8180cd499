"""`tpforge formats`: the quantization formats, and where they work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from scripts.cli.options.common import DEBUG, JSON, SIZE, VERSION
from scripts.cli.output import Output
from scripts.reports.columns import table
from tpforge.errors import InputRefused

if TYPE_CHECKING:
    from tpforge.quantization import Format
    from tpforge.quantization_gate import Verdict


@click.command("formats")
@click.argument("format_name", metavar="[FORMAT]", required=False)
@click.option(
    "--runtime",
    type=click.Choice(["reference", "tensorrt", "pytorch"]),
    default="tensorrt",
    show_default=True,
    help="What is to load it.",
)
@click.option("--sm", type=SIZE, help="Compute capability of the GPUs without its dot, as 90.")
@click.option(
    "--trtllm", "version", type=VERSION, metavar="VERSION", help="TensorRT-LLM's version, as 1.2.1."
)
@click.option("--kv-cache", type=click.Choice(["int8", "fp8"]), help="Format of the KV cache.")
@click.option("--architecture", help="Architecture of the model, as LlamaForCausalLM.")
@JSON
@DEBUG
def command(format_name: str | None, as_json: bool, **values: Any) -> None:
    """List the quantization formats and whether a runtime loads them on a GPU.

    With FORMAT exit status 4 says that it does not work; the reasons name the nearest format that does.
    """
    from tpforge.quantization import find_format, formats
    from tpforge.quantization_gate import Question, judge

    output = Output(as_json=as_json)
    rows = [find_format(format_name)] if format_name else list(formats())
    judged = [(row, judge(Question(row.name, **values))) for row in rows]
    header = ("format", "what", "algorithm", "bits", "group", "made by", values["runtime"])
    output.result(table([_row(row, verdict) for row, verdict in judged], header=header))
    output.record(
        "formats",
        {
            "question": values,
            "formats": [
                {
                    "name": row.name,
                    "title": row.title,
                    "algorithm": row.algo,
                    "weight_bits": row.weight_bits,
                    "group_size": row.group_size,
                    "made_by": row.made_by,
                    "works": verdict.works,
                    "problems": list(verdict.problems),
                    "notes": list(verdict.notes),
                    "nearest": verdict.nearest,
                }
                for row, verdict in judged
            ],
        },
    )
    if format_name and not judged[0][1].works:
        nearest = judged[0][1].nearest
        headline = f"{format_name} does not work here; {f'use {nearest}' if nearest else 'no format does'}:"
        raise InputRefused.listing(headline, judged[0][1].problems)


def _row(row: Format, verdict: Verdict) -> tuple[str, ...]:
    answer = "; ".join(verdict.notes) or "yes"
    if not verdict.works:
        nearest = f" -> {verdict.nearest}" if verdict.nearest else ""
        answer = f"no: {'; '.join(verdict.problems)}{nearest}"
    group = str(row.group_size) if row.group_size else "-"
    return (row.name, row.title, row.algo, str(row.weight_bits), group, row.made_by, answer)
