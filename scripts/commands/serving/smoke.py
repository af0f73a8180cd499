"""`tpforge smoke`: the checks of a running server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scripts.cli.options.common import DEBUG, JSON
from scripts.cli.options.connection import Connection, connection_options, read_connection
from scripts.cli.output import Output
from tpforge.errors import UsageError

if TYPE_CHECKING:
    from triton_repo.smoke import CheckResult, SmokeReport


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
    api: str,
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

    from triton_repo.smoke import report

    output = Output(as_json=as_json)
    connection = read_connection(**values)

    def show(check: CheckResult) -> None:
        output.result(report.line_of(check))

    if api == "openai":
        asked = _OpenAi(url, engine, junit, model, metrics_url)
        found = _smoke_openai(asked, connection, on_result=show)
    elif api == "trtllm-grpc":
        _refuse_openai_options(model, metrics_url, api=api)
        found = _smoke_trtllm_grpc(url, engine, junit, connection, on_result=show)
    else:
        _refuse_openai_options(model, metrics_url, api=api)
        found = _smoke_triton(url, engine, junit, connection, on_result=show)
    output.result(report.summary(found))
    fields = json.loads(found.to_json())
    # `record` puts in the schema version of all that --json prints.
    output.record("smoke", {key: value for key, value in fields.items() if key != "schema_version"})
    report.refuse_failed(found)


@dataclass(frozen=True)
class _OpenAi:
    url: str | None
    engine: str | None
    junit: Path | None
    model: str | None
    metrics_url: str | None


def _smoke_triton(
    url: str | None,
    engine: str | None,
    junit: Path | None,
    connection: Connection,
    *,
    on_result: Callable[[CheckResult], None],
) -> SmokeReport:
    from scripts.flows.smoke import smoke_server
    from triton_repo.smoke import SmokeOptions

    chosen = SmokeOptions(deadline_s=connection.deadline_s, headers=connection.headers, tls=connection.tls)
    return smoke_server(url, engine=engine, junit=junit, options=chosen, on_result=on_result)


def _smoke_openai(
    asked: _OpenAi, connection: Connection, *, on_result: Callable[[CheckResult], None]
) -> SmokeReport:
    from scripts.flows.smoke import smoke_openai_server
    from triton_repo.smoke.openai import OpenAiSmokeOptions

    if connection.tls is not None:
        raise UsageError("--tls: is for --api triton; give https://HOST:PORT, whose certificate is checked")
    chosen = OpenAiSmokeOptions(
        model=asked.model, deadline_s=connection.deadline_s, headers=connection.headers
    )
    return smoke_openai_server(
        asked.url,
        engine=asked.engine,
        junit=asked.junit,
        metrics_url=asked.metrics_url,
        options=chosen,
        on_result=on_result,
    )


def _smoke_trtllm_grpc(
    url: str | None,
    engine: str | None,
    junit: Path | None,
    connection: Connection,
    *,
    on_result: Callable[[CheckResult], None],
) -> SmokeReport:
    from scripts.flows.smoke import smoke_trtllm_grpc
    from triton_repo.smoke.smg import SmgSmokeOptions

    chosen = SmgSmokeOptions(deadline_s=connection.deadline_s, headers=connection.headers, tls=connection.tls)
    return smoke_trtllm_grpc(url, engine=engine, junit=junit, options=chosen, on_result=on_result)


def _refuse_openai_options(model: str | None, metrics_url: str | None, *, api: str) -> None:
    given = {"--model": model, "--metrics-url": metrics_url}
    names = ", ".join(name for name, value in given.items() if value is not None)
    if names:
        raise UsageError(f"{names}: for --api openai, and this is {api}")
