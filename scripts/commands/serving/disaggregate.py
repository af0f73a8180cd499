"""`tpforge disaggregate`: servers for prompts, servers for answers, and a front."""

from __future__ import annotations

from pathlib import Path

import click

from scripts.cli.options.common import DEBUG, FORCE, JSON, SIZE, out_option
from scripts.cli.output import Output
from tpforge.units import counted

_HOST_GPUS = 8


@click.command("disaggregate")
@click.argument("engine", metavar="ENGINE")
@click.option(
    "--generation", metavar="ENGINE", help="The engine of the generation servers.  [default: ENGINE]"
)
@click.option("--context-instances", type=SIZE, default=1, show_default=True, help="Servers for prompts.")
@click.option("--generation-instances", type=SIZE, default=1, show_default=True, help="Servers for answers.")
@click.option(
    "--transceiver",
    type=click.Choice(["DEFAULT", "UCX", "NIXL", "MOONCAKE", "MPI"]),
    default="DEFAULT",
    show_default=True,
    help="How KV caches move from one to the other.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address that clients ask.")
@click.option(
    "--port-base",
    type=click.IntRange(1024, 65000),
    default=8000,
    show_default=True,
    help="Port that clients ask; the servers' are the next ones.",
)
@out_option("Where to write the files.  [default: out/disaggregated]")
@FORCE
@JSON
@DEBUG
def command(
    engine: str,
    generation: str | None,
    context_instances: int,
    generation_instances: int,
    transceiver: str,
    host: str,
    port_base: int,
    out: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Write what serves prompts and answers on GPUs of their own, by trtllm-serve.

    ENGINE, of runtime pytorch, is that of the context servers, with their tp and pp; --generation names one
    of the same model that is divided otherwise. Writes the settings of both, those of the front, and a script
    that starts all of it on one host; nothing is started.
    """
    from typing import cast, get_args

    from scripts.flows.disaggregate import write_disaggregated
    from triton_repo.trtllm_serve.disaggregated import Transceiver

    assert transceiver in get_args(Transceiver)
    output = Output(as_json=as_json)
    written = write_disaggregated(
        engine,
        generation,
        num_context=context_instances,
        num_generation=generation_instances,
        transceiver=cast(Transceiver, transceiver),
        host=host,
        port_base=port_base,
        out=out or Path("out/disaggregated"),
        force=force,
    )
    for name in written.files:
        output.result(str(written.folder / name))
    output.note(f"{counted(written.num_gpus, 'GPU')}; start it: {written.folder}/start.sh (nothing was run)")
    if written.num_gpus > _HOST_GPUS:
        output.note(
            f"a host has {_HOST_GPUS} GPUs as a rule: on several, move the servers' lines of start.sh there, "
            "let them listen on an address of theirs, and name it under urls in disaggregated.yaml"
        )
    output.record(
        "disaggregated",
        {"folder": str(written.folder), "files": list(written.files), "num_gpus": written.num_gpus},
    )
