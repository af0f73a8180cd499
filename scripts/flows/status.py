"""What the servers under out/ do: composes state, gRPC, metrics and processes. It prints nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from scripts.flows import serve
from tpforge.errors import TpforgeError
from tpforge.outputs.places import ROUTER_FOLDER
from tpforge.units import counted
from triton_repo.monitoring.watch import Reading, memory_rows, rows, scrape
from triton_repo.serve.local import Status
from triton_repo.serve.private import private_folder
from triton_repo.serve.state import read_state

_DEADLINE_S = 10.0
"""A token of a busy server may take a while."""


@dataclass(frozen=True)
class Looked:
    """A server, whose engine it serves, and whether it answers: over gRPC, or by a token in OpenAI's API."""

    engine: str
    status: Status
    answers: bool


@dataclass(frozen=True)
class Picture:
    """What every server does at one moment, as lines; the next picture's rates start from `readings`."""

    lines: tuple[str, ...]
    readings: Mapping[Path, Reading] = field(default_factory=dict)


def look(engine: str | None) -> list[Looked]:
    """Every server under out/, or that of an engine."""
    return [
        Looked(str(serve.places_of_server(status).engine), status, _answers(status))
        for status in serve.servers(engine)
    ]


@dataclass(frozen=True)
class Routed:
    """The router of `tpforge promote`: where it listens, and to which engine and server requests go."""

    url: str
    engine: str
    target: str


def routed() -> Routed | None:
    """The router where it runs; gRPC is imported only where one has run."""
    if not private_folder(ROUTER_FOLDER).is_dir():
        return None
    from triton_repo.promote.router import Router

    router = Router(ROUTER_FOLDER)
    state, route = router.state, router.route
    return None if state is None or route is None else Routed(state.url, route.engine, route.target)


def picture(engine: str | None, before: Picture | None) -> Picture:
    """Queue, rates, KV cache and memory now; rates need a picture before."""
    lines, readings = [time.strftime("%H:%M:%S")], {}
    for status in serve.servers(engine):
        name = serve.places_of_server(status).engine
        lines.append(f"{name}: {status.phase}, {counted(status.restarts, 'restart')}")
        reading = scrape(status)
        if reading is None:
            continue
        found = rows(reading, before.readings.get(status.state_dir) if before is not None else None)
        readings[status.state_dir] = reading
        state = read_state(status.state_dir)
        if state is not None and state.server is not None:
            found += memory_rows(state.server.pid)
        width = max(len(what) for what, _ in found)
        lines += [f"  {what.ljust(width)}  {value}" for what, value in found]
    return Picture(tuple(lines), {**(before.readings if before is not None else {}), **readings})


def _answers(status: Status) -> bool:
    from triton_repo.client.client import Client

    if status.phase != "ready" or status.server is None:
        return False
    security, model = status.server.security, status.server.model
    if model is not None:
        from triton_repo.trtllm_serve.readiness import generate_token, generate_token_id

        try:
            if status.server.api == "trtllm-grpc":
                generate_token_id(status.server.grpc_url, deadline_s=_DEADLINE_S)
            else:
                generate_token(status.server.http_url, model=model, deadline_s=_DEADLINE_S)
        except TpforgeError:
            return False
        return True
    try:
        with Client(
            status.server.grpc_url,
            deadline_s=2,
            headers=security.client_headers(),
            tls=security.client_tls(),
        ) as client:
            return client.is_ready()
    except TpforgeError:
        return False
