"""`tpforge promote`: the next engine, without losing a request."""

from __future__ import annotations

from dataclasses import asdict

import click

from scripts import _options
from scripts._output import Output
from tpforge.errors import UsageError


@click.command("promote")
@click.argument("engine", metavar="[ENGINE]", required=False)
@click.option(
    "--port", type=click.IntRange(1024, 65535), default=8100, show_default=True, help="Of the router."
)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 is all of them."
)
@click.option("--fallback", metavar="ENGINE", help="What to go back to.  [default: the active engine]")
@click.option(
    "--requests", "num_requests", type=_options.SIZE, default=40, show_default=True, help="Of the canary."
)
@click.option(
    "--clients", type=_options.SIZE, default=4, show_default=True, help="Canary requests at a time."
)
@click.option(
    "--max-p95-ms", type=click.FloatRange(min=0), help="Most p95 of the candidate's request latency."
)
@click.option(
    "--max-p95-ratio",
    type=click.FloatRange(min=0),
    default=1.5,
    show_default=True,
    help="Without --max-p95-ms: most p95 as a multiple of the active engine's.",
)
@click.option("--stop-router", "stop", is_flag=True, help="Stop the router; the servers go on.")
@_options.JSON
@_options.DEBUG
def command(
    engine: str | None,
    port: int,
    host: str,
    fallback: str | None,
    num_requests: int,
    clients: int,
    max_p95_ms: float | None,
    max_p95_ratio: float,
    stop: bool,
    as_json: bool,
) -> None:
    """Make an engine the active one behind the router, and go back if it does not keep its limits.

    ENGINE's server runs beside the active one (`tpforge serve ENGINE --detach --port-base ...`). It is smoke
    tested and measured in turn with the active one, then new requests go to it; requests in flight end where
    they began. When requests fail or the p95 is beyond the limit, the fallback is the active one again: exit
    status 6 or 7.
    """
    from scripts import promoting
    from triton_repo.deploy.router import Router

    output = Output(as_json=as_json)
    router = Router(promoting.ROUTER_FOLDER)
    if stop:
        output.result("stopped the router" if router.stop() else "no router runs")
        output.record("promotion", {"stopped": True})
        return
    if engine is None:
        raise UsageError("give the ENGINE to promote, or --stop-router")
    route = router.route if router.state is not None else None
    back = fallback or (route.engine if route else None)
    promotion = promoting.promote(
        router,
        promoting.backend_of(engine),
        promoting.backend_of(back) if back else None,
        host=host,
        port=port,
        options=promoting.PromoteOptions(
            num_requests=num_requests,
            concurrency=clients,
            max_p95_ms=max_p95_ms,
            max_p95_ratio=max_p95_ratio,
        ),
        progress=output.progress,
    )
    status = router.status()
    output.result(f"active    {promotion.candidate} ({status.active.target})")
    output.result(f"fallback  {promotion.previous or 'none'}")
    output.result(
        f"p95       {promotion.watched_p95_ms:.0f} ms through the router, limit {promotion.limit_ms:.0f} ms, "
        f"n={num_requests}"
    )
    output.record("promotion", {**asdict(promotion), "router": status.model_dump(mode="json")})
