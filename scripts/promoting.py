"""From one engine to the next without losing a request: smoke, canary, shift, watch, and back by itself.

Composes the servers of `serving` with triton_repo's router and smoke test. It prints nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scripts.locations import OUT, Places, find_engine
from tpforge.errors import RegressionFound, TpforgeError, UsageError, VerificationFailed

if TYPE_CHECKING:
    from tpforge.manifest import Manifest
    from triton_repo.deploy.router import Router

Progress = Callable[[str], None]
ROUTER_FOLDER = OUT / "router"
PROMPT = "The capital of France is"


@dataclass(frozen=True)
class Backend:
    """A server with the engine that it serves."""

    engine: str
    url: str
    manifest: Manifest | None = None
    metrics_url: str | None = None


@dataclass(frozen=True)
class PromoteOptions:
    """What the candidate has to keep.

    Its p95 over `num_requests` requests may be `max_p95_ms`, or else `max_p95_ratio` times that of the
    server it replaces, asked in turn with it, so that both see the same machine.
    """

    num_requests: int = 40
    concurrency: int = 4
    max_tokens: int = 16
    max_p95_ms: float | None = None
    max_p95_ratio: float = 1.5
    deadline_s: float = 60.0


@dataclass(frozen=True)
class Promotion:
    """What was measured, and what came of it."""

    candidate: str
    previous: str | None
    num_checks: int
    canary_p95_ms: float
    limit_ms: float
    watched_p95_ms: float


def backend_of(engine: str) -> Backend:
    """The running server of an engine.

    Raises:
        UsageError: it has none.
    """
    from engines.store import read_manifest
    from triton_repo.deploy.local import status

    places: Places = find_engine(engine)
    found = status(places.server)
    if found.phase != "ready" or found.server is None:
        raise UsageError(
            f"{places.engine}: has no server that is ready (it is {found.phase}); start one beside the "
            f"active one: tpforge serve {places.engine} --detach --port-base 8010"
        )
    if found.server.security.has_tls:
        raise UsageError(f"{places.engine}: its server wants TLS, which the router does not speak yet")
    manifest = read_manifest(places.engine)
    return Backend(str(places.engine), found.server.grpc_url, manifest, found.server.metrics_url)


def promote(
    router: Router,
    candidate: Backend,
    previous: Backend | None,
    *,
    host: str,
    port: int,
    options: PromoteOptions,
    progress: Progress,
) -> Promotion:
    """Make `candidate` the server behind the router, or leave, or bring back, `previous`.

    Raises:
        VerificationFailed: the candidate's smoke test failed, or it lost requests; nothing was shifted.
        RegressionFound: its p95 is beyond the limit; `previous` is the active one.
        EnvironmentUnusable: the router does not start.
    """
    from triton_repo.deploy.router import Route

    num_checks = _smoke(candidate, progress)
    limit, measured = _canary(candidate, previous, options, progress)
    router.turn(Route(target=candidate.url, engine=candidate.engine))
    url = router.start(host=host, port=port).url
    progress(f"shifted {url} to {candidate.engine}")
    try:
        (watched,) = _measure((url,), options)
        if watched > limit:
            raise RegressionFound(
                f"{candidate.engine}: p95 {watched:.0f} ms after the shift, the limit is {limit:.0f} ms"
            )
    except BaseException as error:
        if previous is None:
            raise
        router.turn(Route(target=previous.url, engine=previous.engine))
        progress(f"went back to {previous.engine}")
        if isinstance(error, TpforgeError):
            raise type(error)(f"{error}; {previous.engine} is the active one again") from error
        raise
    return Promotion(
        candidate.engine, previous.engine if previous else None, num_checks, measured, limit, watched
    )


def _smoke(candidate: Backend, progress: Progress) -> int:
    """The checks of the candidate's smoke test, all of which passed or were skipped."""
    from scripts.smoking import refuse_failed, summary
    from triton_repo.smoke import run_smoke

    progress(f"smoke test of {candidate.engine}")
    report = run_smoke(
        candidate.url,
        manifest=candidate.manifest,
        metrics_url=candidate.metrics_url,
        on_result=lambda _check: None,
    )
    refuse_failed(report)
    progress(f"smoke test: {summary(report)}")
    return len(report.results)


def _canary(
    candidate: Backend, previous: Backend | None, options: PromoteOptions, progress: Progress
) -> tuple[float, float]:
    """The limit and the candidate's p95 in ms, measured beside its predecessor."""
    urls = (candidate.url, *((previous.url,) if previous else ()))
    measured = _measure(urls, options)
    if options.max_p95_ms is not None:
        limit = options.max_p95_ms
    else:
        limit = options.max_p95_ratio * (measured[1] if previous else measured[0])
    progress(f"canary: p95 {measured[0]:.0f} ms, limit {limit:.0f} ms, n={options.num_requests}")
    if measured[0] > limit:
        stays = f"; {previous.engine} stays the active one" if previous else ""
        raise RegressionFound(
            f"{candidate.engine}: p95 {measured[0]:.0f} ms over {options.num_requests} requests, "
            f"the limit is {limit:.0f} ms{stays}"
        )
    return limit, measured[0]


def _measure(urls: tuple[str, ...], options: PromoteOptions) -> list[float]:
    """p95 of the request latency in ms of each server, asked in turn by every worker.

    Raises:
        VerificationFailed: a request failed.
    """
    from triton_repo.client import Client

    clients = [Client(url, deadline_s=options.deadline_s) for url in urls]

    def ask(index: int) -> list[float]:
        times = []
        for client in clients:
            begun = time.monotonic()
            client.generate(f"{PROMPT} {index}", max_tokens=options.max_tokens, stream=True)
            times.append((time.monotonic() - begun) * 1e3)
        return times

    try:
        with ThreadPoolExecutor(options.concurrency) as pool:
            rows = list(pool.map(ask, range(options.num_requests)))
    except TpforgeError as error:
        raise VerificationFailed(f"a request of the canary was lost: {error}") from error
    finally:
        for client in clients:
            client.close()
    return [_p95([row[column] for row in rows]) for column in range(len(urls))]


def _p95(values: list[float]) -> float:
    """The smallest value that 95 of 100 do not exceed."""
    ordered = sorted(values)
    return ordered[math.ceil(0.95 * len(ordered)) - 1]
