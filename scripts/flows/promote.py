"""A promotion on this machine before it begins: which servers change places, by which router.

It shifts nothing; `triton_repo.promote.promotion` does.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engines.recorded_engine import find_recorded
from engines.store import read_manifest
from scripts.flows.serve import known_engine
from tpforge.errors import UsageError
from tpforge.outputs.places import ROUTER_FOLDER
from triton_repo.promote.promotion import Backend, RouterSwitch
from triton_repo.serve.local import status

if TYPE_CHECKING:
    from triton_repo.client.channel import Tls


@dataclass(frozen=True)
class Reached:
    """How the servers are asked: TLS and headers of the user's, before those that each was started with."""

    tls: Tls | None = None
    headers: Mapping[str, str] | None = None


@dataclass(frozen=True)
class PlannedPromotion:
    """What changes places: `active` is the engine that the router asks now; None: there is none."""

    switch: RouterSwitch
    active: str | None
    candidate: Backend
    fallback: Backend | None


def plan_promotion(
    engine: str, *, fallback: str | None, decision: Path | None, listen: tuple[str, int], reached: Reached
) -> PlannedPromotion:
    """The promotion of an engine; `listen` is where the router listens that is not there yet.

    The fallback is the engine of that name, by default the active one; with a decision record the record's,
    proven by its hashes.

    Raises:
        UsageError: candidate or fallback has no server that is ready, or they are the same.
        InputRefused: the fallback is not the engine of the record.
    """
    # Imported here: it loads grpc, and what is wrong with the arguments is said before.
    from triton_repo.promote.router import Router

    router = Router(ROUTER_FOLDER)
    route = router.route if router.state is not None else None
    back = fallback or (route.engine if route else None)
    if decision is not None:
        back = str(find_recorded(decision, given=fallback).engine)
    candidate = _backend_of(engine, reached)
    former = _backend_of(back, reached) if back else None
    if former is not None and former.url == candidate.url:
        raise UsageError(f"{engine}: is the fallback itself; name another with --fallback")
    switch = RouterSwitch(router, *listen)
    switch.refuse_exposed(candidate, *((former,) if former else ()))
    return PlannedPromotion(switch, route.engine if route else None, candidate, former)


def _backend_of(engine: str, reached: Reached) -> Backend:
    """The running server of an engine, with the engine's limits and golden answers."""
    places = known_engine(engine)
    found = status(places.server)
    if found.phase != "ready" or found.server is None:
        raise UsageError(
            f"{places.engine}: has no server that is ready (it is {found.phase}); start one beside the "
            f"active one: tpforge serve {shlex.quote(str(places.engine))} --detach --port-base 8010"
        )
    server = found.server
    security = server.security.absolute()
    return Backend(
        str(places.engine),
        server.grpc_url,
        read_manifest(places.engine),
        server.metrics_url,
        tls=(reached.tls or security.client_tls()) if security.has_tls else None,
        headers={**security.client_headers(), **(reached.headers or {})},
    )
