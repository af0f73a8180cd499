"""The smoke test of a server, with what is known here of its engine. Composes engines and triton_repo.

It prints nothing; the checks are `triton_repo.smoke`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.flows.serve import find_server
from tpforge.outputs.atomic import write_atomic
from tpforge.outputs.places import find_engine

if TYPE_CHECKING:
    from triton_repo.smoke import CheckResult, SmokeOptions, SmokeReport


def smoke_server(
    url: str | None,
    *,
    engine: str | None = None,
    junit: Path | None = None,
    options: SmokeOptions | None = None,
    on_result: Callable[[CheckResult], None],
) -> SmokeReport:
    """Run every check against a server; without `url` against the one that runs.

    The engine, given or known from the running server, brings limits and golden answers.

    Raises:
        UsageError: no server was named and none, or several, run.
        InputRefused: `engine` is none.
    """
    from engines.store import read_manifest
    from triton_repo.smoke import SmokeOptions, run_smoke

    grpc_url, metrics_url, places = find_server(url)
    if engine is not None:
        places = find_engine(engine)
    report = run_smoke(
        grpc_url,
        manifest=read_manifest(places.engine) if places is not None else None,
        metrics_url=metrics_url,
        on_result=on_result,
        options=options or SmokeOptions(),
    )
    if junit is not None:
        junit.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(junit, report.to_junit())
    return report
