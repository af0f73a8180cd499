"""A server of this machine as a promotion sees it: found by its engine, with the engine's limits and answers.

It shifts nothing; `triton_repo.promote.promotion` does.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING

from engines.store import read_manifest
from scripts.flows.serve import known_engine
from tpforge.errors import UsageError
from triton_repo.promote.promotion import Backend
from triton_repo.serve.local import status

if TYPE_CHECKING:
    from triton_repo.client.channel import Tls


def backend_of(
    engine: str, *, tls: Tls | None = None, headers: Mapping[str, str] | None = None, port_base: int = 8010
) -> Backend:
    """The running server of an engine; TLS and the administrator's key are its own unless given.

    Raises:
        UsageError: it has none.
    """
    places = known_engine(engine)
    found = status(places.server)
    if found.phase != "ready" or found.server is None:
        raise UsageError(
            f"{places.engine}: has no server that is ready (it is {found.phase}); start one beside the "
            f"active one: tpforge serve {shlex.quote(str(places.engine))} --detach --port-base {port_base}"
        )
    server = found.server
    security = server.security.absolute()
    return Backend(
        str(places.engine),
        server.grpc_url,
        read_manifest(places.engine),
        server.metrics_url,
        tls=(tls or security.client_tls()) if security.has_tls else None,
        headers={**security.client_headers(), **(headers or {})},
    )
