"""`tpforge verify`: the proof of an engine."""

from __future__ import annotations

import click

from scripts.cli.options.common import DEBUG, ENGINE, JSON, Amount
from scripts.cli.output import Output
from scripts.reports.columns import table
from tpforge.errors import VerificationFailed


@click.command("verify")
@ENGINE
@click.option("--model", help="Where the source lies, when it has moved since the build.")
@click.option(
    "--baseline",
    metavar="MODEL",
    help="The unquantized model that a quantized engine is scored against.  [default: its source]",
)
@click.option(
    "--max-drop",
    type=Amount(min=0, min_open=True),
    help="Fail when quantization raised the perplexity by more than this fraction.  "
    "[default: the one it was built with]",
)
@JSON
@DEBUG
def command(
    engine: str | None, model: str | None, baseline: str | None, max_drop: float | None, as_json: bool
) -> None:
    """Prove an engine against its source and against transformers.

    ENGINE is a folder, or a name under out/; without it the newest one there. Every tensor is put together
    from the ranks and compared bit for bit with the source; then the ranks answer real prompts, and their
    logits and greedy tokens are compared with those of transformers in float32. Writes parity.json, and
    the golden answers into engine.json. Exit status 6 when something differs. Of a quantized engine, its
    values are compared with the format's rounding of the source, transformers computes with those values,
    and what they lost against the source is measured beside; exit status 7 when that is above --max-drop.
    """
    from scripts.cli.show_proof import parity_rows, quality_rows
    from scripts.flows import prove
    from scripts.flows.quantize import refuse_drop
    from tpforge.outputs.places import find_engine

    output = Output(as_json=as_json)
    places = find_engine(engine)
    if engine is None:
        output.note(f"engine: {places.engine} (the newest)")
    verified = prove.verify_engine(places, model=model, baseline=baseline, progress=output.progress)
    parity = verified.parity
    output.result(table(parity_rows(parity), header=("what", "measured")))
    quality = verified.manifest.quality
    if quality is not None:
        output.result("")
        output.result(table(quality_rows(quality), header=("what quantization cost", "measured")))
    output.record(
        "verification",
        {
            "path": str(places.engine),
            "computed_on": verified.computed_on,
            "parity": parity.model_dump(mode="json"),
            "quality": quality.model_dump(mode="json") if quality else None,
            "golden": [answer.model_dump(mode="json") for answer in verified.manifest.golden],
        },
    )
    if not parity.passed:
        raise VerificationFailed(
            "\n  ".join([f"{places.engine}: is not what its source computes:", *parity.problems])
        )
    limit = max_drop if max_drop is not None else quality.max_drop if quality else None
    if quality is not None and limit is not None:
        refuse_drop(quality, limit=limit, where=places.engine)
