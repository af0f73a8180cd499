"""Several servers of one engine behind one front: started so that the front asks them all, stopped together.

Composes `serve`; the front belongs to the first of them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from scripts.flows.serve import serve_engine, stop_servers
from scripts.flows.serving.front import refuse_without_front
from tpforge.errors import EnvironmentUnusable
from tpforge.outputs.places import Places
from tpforge.progress import Progress
from tpforge.recipe import ServeRecipe
from tpforge.repository_options import RepositoryOptions
from tpforge.system.opener import read_url

if TYPE_CHECKING:
    from triton_repo.serve.local import Server
    from triton_repo.serve.security import Security

_JOIN_TIMEOUT_S = 60.0


def serve_replicas(
    places: Places,
    recipe: ServeRecipe,
    *,
    options: RepositoryOptions | None = None,
    detach: bool,
    progress: Progress,
    on_ready: Callable[[Server], None] | None = None,
    security: Security | None = None,
) -> Server:
    """Start the recipe's servers of an engine; the first one, with `on_ready` once the front knows all.

    In the foreground they end with the first one.

    Raises:
        TpforgeError: one cannot be started; then none is left.
    """
    refuse_without_front(recipe)
    start = partial(serve_engine, places, recipe, options=options, progress=progress, security=security)

    def complete(first: Server) -> None:
        for number in range(2, recipe.replicas + 1):
            progress(f"starting server {number} of {recipe.replicas}")
            start(detach=True, number=number)
        if recipe.replicas > 1:
            _await_workers(first, recipe.replicas)
        if on_ready is not None:
            on_ready(first)

    try:
        return start(detach=detach, on_ready=complete)
    except BaseException:
        if recipe.replicas > 1:
            stop_servers(str(places.engine), every=False)
        raise
    finally:
        if recipe.replicas > 1 and not detach:
            stop_servers(str(places.engine), every=False)


def num_workers(first: Server) -> int:
    """How many workers the front of a server knows."""
    base = first.addresses["openai"].removesuffix("/v1")
    try:
        found = json.loads(read_url(f"{base}/health", timeout_s=5.0, roots=first.security.certificate))
    except (OSError, ValueError):
        return 0
    return len(found.get("instances") or ())


def _await_workers(first: Server, count: int) -> None:
    end = time.monotonic() + _JOIN_TIMEOUT_S
    while num_workers(first) < count:
        if time.monotonic() > end:
            raise EnvironmentUnusable(
                f"the front knows {num_workers(first)} of {count} servers after {_JOIN_TIMEOUT_S:g} s; "
                f"worker.log of each lies beside {first.log}"
            )
        time.sleep(0.2)
