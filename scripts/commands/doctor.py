"""`tpforge doctor`: what this host can do."""

from __future__ import annotations

import click

from scripts.cli.options.common import DEBUG, JSON
from scripts.cli.output import Output
from scripts.reports.columns import table


@click.command("doctor")
@click.option(
    "--trtllm",
    metavar="VERSION",
    help="Release of TensorRT-LLM to judge for; `tpforge versions` lists them.  [default: 1.2.1]",
)
@JSON
@DEBUG
def command(trtllm: str | None, as_json: bool) -> None:
    """Show what this host can do: GPUs, links, driver, containers, TensorRT-LLM, Triton.

    A verdict a line, with what to do. It looks and changes nothing; on a host without a GPU it says what
    works there.
    """
    from dataclasses import asdict

    from engines.host import container_problem, find_host
    from scripts.flows.doctor import diagnose_host
    from tpforge.versions import DEFAULT_RELEASE, find_release

    output = Output(as_json=as_json)
    release = find_release(trtllm or DEFAULT_RELEASE)
    host = find_host()
    engines = [name for name, _ in host.programs if name in ("docker", "podman")]
    silent = {name: problem for name in engines if (problem := container_problem(name))}
    diagnosis = diagnose_host(host, release=release, silent=silent)
    rows = [(one.verdict, one.part, one.found, one.advice) for one in diagnosis.findings]
    output.result(table(rows, header=("", "part", "found", "what to do")))
    output.result("\nworks here:")
    for line in diagnosis.works:
        output.result(f"  {line}")
    output.record(
        "doctor",
        {
            "release": release.trtllm,
            "findings": [asdict(one) for one in diagnosis.findings],
            "works": list(diagnosis.works),
            "host": asdict(host),
        },
    )
