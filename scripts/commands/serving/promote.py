"""`tpforge promote`: the next engine, without losing a request."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scripts.cli.options.common import DEBUG, DRY_RUN, JSON, SIZE, Amount, Decorator, together
from scripts.cli.options.connection import Connection, connection_options, read_connection
from scripts.cli.output import Output
from tpforge.errors import UsageError

if TYPE_CHECKING:
    from triton_repo.promote.cluster import Releases
    from triton_repo.promote.promotion import PromoteOptions, Promotion

_CLUSTER = ("service", "active", "candidate", "candidate_url", "active_url", "watch_url")
_URL = "HOST:PORT"


def _cluster() -> Decorator:
    """What a promotion on a cluster needs."""
    return together(
        click.option(
            "--namespace",
            default="default",
            show_default=True,
            help="kubernetes: namespace of the Service and of both releases.",
        ),
        click.option(
            "--context", metavar="NAME", help="kubernetes: context of kubectl.  [default: the current one]"
        ),
        click.option("--service", metavar="NAME", help="kubernetes: the Service that clients use."),
        click.option(
            "--active", metavar="RELEASE", help="kubernetes: the release that it selects now; the fallback."
        ),
        click.option("--candidate", metavar="RELEASE", help="kubernetes: the release that it is to select."),
        click.option(
            "--candidate-url", metavar=_URL, help="gRPC of the candidate.  [default: kubectl port-forward]"
        ),
        click.option(
            "--active-url", metavar=_URL, help="gRPC of the active one.  [default: kubectl port-forward]"
        ),
        click.option(
            "--watch-url", metavar=_URL, help="gRPC of the Service.  [default: kubectl port-forward]"
        ),
    )


@click.command("promote")
@click.argument("engine", metavar="[ENGINE]", required=False)
@click.option(
    "--target",
    type=click.Choice(["local", "kubernetes"]),
    default="local",
    show_default=True,
    help="Servers of this machine behind a router, or releases on a cluster behind a Service.",
)
@click.option(
    "--port", type=click.IntRange(1024, 65535), default=8100, show_default=True, help="Port of the router."
)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 is all of them."
)
@click.option("--fallback", metavar="ENGINE", help="What to go back to.  [default: the active engine]")
@click.option(
    "--decision",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Go back to the fallback of this decision.json, after proving its hashes.",
)
@_cluster()
@click.option(
    "--requests", "num_requests", type=SIZE, default=40, show_default=True, help="Requests of the canary."
)
@click.option("--clients", type=SIZE, default=4, show_default=True, help="Canary requests at a time.")
@click.option("--max-p95-ms", type=Amount(min=0), help="Highest p95 of the candidate's request latency.")
@click.option(
    "--max-p95-ratio",
    type=Amount(min=0),
    default=1.5,
    show_default=True,
    help="Without --max-p95-ms: highest p95 as a multiple of the fallback's.",
)
@connection_options()
@click.option("--tls-name", metavar="NAME", help="The name in the certificate, if not the host's.")
@click.option("--stop-router", "stop", is_flag=True, help="Stop the router; the servers go on.")
@DRY_RUN
@JSON
@DEBUG
def command(engine: str | None, target: str, stop: bool, as_json: bool, **values: Any) -> None:
    """Make an engine the active one, and go back if it does not keep its limits.

    ENGINE's server runs beside the active one (`tpforge serve ENGINE --detach --port-base ...`). It is smoke
    tested and measured in turn with the fallback, then new requests go to it; requests in flight end where
    they began. When requests fail or the p95 is beyond the limit, the fallback is the active one again: exit
    status 6 or 7.

    With --target kubernetes, --candidate is installed beside --active, and kubectl patches the selector of
    --service. ENGINE is then optional: the candidate's folder here, for its limits and golden answers.
    """
    output = Output(as_json=as_json)
    names = ("deadline", "headers", "tls", "tls_root", "tls_key", "tls_cert")
    given = {name: values.pop(name) for name in names}
    for name in ("tls_root", "tls_key", "tls_cert"):  # The router may run in another folder.
        given[name] = given[name].absolute() if given[name] else None
    connection = read_connection(**given)
    tls_name = values.pop("tls_name")
    if tls_name is not None:
        if connection.tls is None:
            raise UsageError("--tls-name needs --tls or --tls-root")
        connection = replace(connection, tls=replace(connection.tls, server_name=tls_name))
    if stop:
        _stop(output)
    elif target == "local":
        _promote_local(engine, connection, output, values)
    else:
        _promote_cluster(engine, connection, output, values)


def _stop(output: Output) -> None:
    from tpforge.outputs.places import ROUTER_FOLDER
    from triton_repo.promote.router import Router

    router = Router(ROUTER_FOLDER)
    output.result("stopped the router" if router.stop() else "no router runs")
    output.record("promotion", {"stopped": True})


def _promote_local(
    engine: str | None, connection: Connection, output: Output, values: dict[str, Any]
) -> None:
    from scripts.flows.promote import Reached, plan_promotion
    from triton_repo.promote.promotion import promote

    if engine is None:
        raise UsageError("give the ENGINE to promote, or --stop-router")
    unwanted = [f"--{name.replace('_', '-')}" for name in (*_CLUSTER, "context") if values[name] is not None]
    if unwanted:
        raise UsageError(f"{', '.join(unwanted)}: for --target kubernetes only")
    planned = plan_promotion(
        engine,
        fallback=values["fallback"],
        decision=values["decision"],
        listen=(values["host"], values["port"]),
        reached=Reached(connection.tls, connection.headers),
    )
    candidate, fallback = planned.candidate, planned.fallback.engine if planned.fallback else None
    if values["dry_run"]:
        output.result(f"active    {planned.active or 'none'}\ncandidate {candidate.engine} ({candidate.url})")
        output.result(f"fallback  {fallback or 'none'}")
        output.record("promotion", {"dry_run": True, "candidate": candidate.engine, "fallback": fallback})
        return
    promotion = promote(
        planned.switch,
        candidate,
        planned.fallback,
        options=_limits(connection, values),
        progress=output.progress,
    )
    status = planned.switch.router.status()
    _show(promotion, f"{promotion.candidate} ({status.active.target})", "the router", output, values)
    output.record("promotion", {**asdict(promotion), "router": status.model_dump(mode="json")})


def _promote_cluster(
    engine: str | None, connection: Connection, output: Output, values: dict[str, Any]
) -> None:
    from triton_repo.promote import cluster
    from triton_repo.promote.kubectl import Kubectl

    if values["decision"] is not None or values["fallback"] is not None:
        raise UsageError(
            "--decision and --fallback: a cluster does not tell the hashes of a release's engine; with "
            "--target kubernetes the fallback is --active, so name the release of the record's fallback there"
        )
    releases = _releases(engine, connection, values)
    kubectl = Kubectl(values["namespace"], values["context"])
    if values["dry_run"]:
        lines = cluster.commands(kubectl, releases, cluster.look(kubectl, releases))
        output.result("\n".join(lines))
        output.record("promotion", {"dry_run": True, "commands": lines})
        return
    promotion = cluster.promote_release(
        kubectl, releases, options=_limits(connection, values), progress=output.progress
    )
    service = f"service {releases.service} of {kubectl.namespace}"
    _show(promotion, f"{promotion.candidate} ({service})", service, output, values)
    output.record("promotion", {**asdict(promotion), "service": releases.service})


def _releases(engine: str | None, connection: Connection, values: dict[str, Any]) -> Releases:
    from engines.store import read_manifest
    from tpforge.outputs.places import find_engine
    from triton_repo.promote.cluster import Releases

    missing = [f"--{name}" for name in ("service", "active", "candidate") if values[name] is None]
    if missing:
        raise UsageError(f"--target kubernetes needs {', '.join(missing)}")
    return Releases(
        **{name: values[name] for name in _CLUSTER},
        manifest=read_manifest(find_engine(engine).engine) if engine is not None else None,
        tls=connection.tls,
        headers=connection.headers,
    )


def _limits(connection: Connection, values: dict[str, Any]) -> PromoteOptions:
    from triton_repo.promote.promotion import PromoteOptions

    return PromoteOptions(
        num_requests=values["num_requests"],
        concurrency=values["clients"],
        max_p95_ms=values["max_p95_ms"],
        max_p95_ratio=values["max_p95_ratio"],
        deadline_s=connection.deadline_s,
    )


def _show(promotion: Promotion, active: str, through: str, output: Output, values: dict[str, Any]) -> None:
    output.result(f"active    {active}")
    output.result(f"fallback  {promotion.previous or 'none'}")
    output.result(
        f"p95       {promotion.watched_p95_ms:.0f} ms through {through}, limit {promotion.limit_ms:.0f} ms, "
        f"n={values['num_requests']}"
    )
