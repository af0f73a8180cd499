"""`tpforge doctor`: what this host can do."""

from __future__ import annotations

import click

from scripts.cli.options.common import DEBUG, JSON, VERSION
from scripts.cli.output import Output
from scripts.reports.columns import table


@click.command("doctor")
@click.option(
    "--trtllm",
    type=VERSION,
    metavar="VERSION",
    help="Release of TensorRT-LLM to judge for; `tpforge versions` lists them.  [default: 1.2.1]",
)
@JSON
@DEBUG
def command(trtllm: str | None, as_json: bool) -> None:
    """Show what this host can do: GPUs, links, driver, containers, TensorRT-LLM, Triton.

    One verdict per line, with what to do. It looks and changes nothing; on a host without a GPU it says what
    works there.
    """
    from dataclasses import asdict

    from scripts.flows.doctor import look_at_host

    output = Output(as_json=as_json)
    found = look_at_host(trtllm)
    verdicts = found.verdicts
    rows = [(one.verdict, one.part, one.found, one.advice) for one in verdicts.findings]
    output.result(table(rows, header=("", "part", "found", "what to do")))
    output.result("\nworks here:")
    for line in verdicts.works:
        output.result(f"  {line}")
    output.result(f"\n--runtime auto: {found.auto.line}")
    output.record(
        "doctor",
        {
            "release": found.release.trtllm,
            "findings": [asdict(one) for one in verdicts.findings],
            "works": list(verdicts.works),
            "auto": asdict(found.auto),
            "host": asdict(found.host),
        },
    )
