"""`tpforge smoke`: the checks of a running server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scripts.cli.options.common import DEBUG, JSON
from scripts.cli.options.connection import connection_options, read_connection
from scripts.cli.output import Output
from tpforge.errors import UsageError

if TYPE_CHECKING:
    from scripts.flows.smoke import Api


@click.command("smoke")
@click.argument("url", metavar="[HOST:PORT]", required=False)
@click.option("--engine", help="The engine it serves: limits and golden answers.  [default: as started here]")
@click.option(
    "--api",
    type=click.Choice(["triton", "openai", "trtllm-grpc"]),
    default="triton",
    show_default=True,
    help="Protocol: Triton's gRPC, OpenAI's HTTP, or that of trtllm-serve --grpc.",
)
@click.option("--model", help="openai: the model to ask.  [default: the only one that the server lists]")
@click.option(
    "--metrics-url",
    metavar="URL",
    help="openai: where running requests are counted.  [default: the server's /metrics]",
)
@click.option("--junit", type=click.Path(path_type=Path), metavar="FILE", help="Write a JUnit report too.")
@connection_options()
@JSON
@DEBUG
def command(
    url: str | None,
    engine: str | None,
    api: Api,
    model: str | None,
    metrics_url: str | None,
    junit: Path | None,
    as_json: bool,
    **values: Any,
) -> None:
    """Prove over gRPC, or OpenAI's HTTP, that a server keeps its contract.

    HOST:PORT is the server's gRPC port, with --api openai http://HOST:PORT; without it the server that runs
    here. Checks what it answers, how it streams, and that it survives malformed requests. Exit status 6 when
    a check fails.
    """
    import json

    from scripts.flows.smoke import SmokeRequest, smoke_server
    from triton_repo.smoke import CheckResult, SmokeOptions, report

    output = Output(as_json=as_json)
    connection = read_connection(**values)
    _refuse_unfit(api, model=model, metrics_url=metrics_url, with_tls=connection.tls is not None)

    def show(check: CheckResult) -> None:
        output.result(report.line_of(check))

    found = smoke_server(
        SmokeRequest(url, api=api, engine=engine, model=model, metrics_url=metrics_url, junit=junit),
        options=SmokeOptions(
            deadline_s=connection.deadline_s, headers=connection.headers, tls=connection.tls
        ),
        on_result=show,
    )
    output.result(report.summary(found))
    fields = json.loads(found.to_json())
    # `record` puts in the schema version of all that --json prints.
    output.record("smoke", {key: value for key, value in fields.items() if key != "schema_version"})
    report.refuse_failed(found)


def _refuse_unfit(api: Api, *, model: str | None, metrics_url: str | None, with_tls: bool) -> None:
    """Refuse options that are of another protocol."""
    if api == "openai":
        if with_tls:
            raise UsageError("--tls: is for gRPC; give https://HOST:PORT, whose certificate is checked")
        return
    given = {"--model": model, "--metrics-url": metrics_url}
    names = ", ".join(name for name, value in given.items() if value is not None)
    if names:
        raise UsageError(f"{names}: only for --api openai, and this is --api {api}")
