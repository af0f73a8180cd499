"""Engines pushed to and pulled from a URL by their names; `transport` moves the files. It prints nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from engines.transfer.remote import open_remote
from engines.transfer.threads import TimeLimit
from engines.transfer.transport import Transfer, pull, push
from tpforge.errors import UsageError
from tpforge.outputs.places import OUT, Places, find_engine, places_of
from tpforge.progress import Progress


def push_engine(
    engine: str | None, url: str, *, headers: Mapping[str, str], num_parallel: int, progress: Progress
) -> tuple[Places, Transfer]:
    """Push an engine to a URL.

    Raises:
        UsageError, EnvironmentUnusable, InputRefused, VerificationFailed: see `push` of transport.
    """
    places = find_engine(engine)
    remote = open_remote(url, headers=dict(headers))
    return places, push(places.engine, remote, progress=progress, num_parallel=num_parallel)


def pull_engine(
    url: str,
    out: Path | None,
    *,
    headers: Mapping[str, str],
    digest: str | None,
    force: bool,
    num_parallel: int,
    time_limit_s: float,
    progress: Progress,
) -> tuple[Path, Transfer]:
    """Pull an engine from a URL, by default to out/NAME/engine, NAME being the last part of the URL.

    Raises:
        UsageError, EnvironmentUnusable, InputRefused, VerificationFailed: see `pull` of transport.
    """
    folder = out or places_of(_name_in(url), root=OUT).engine
    remote = open_remote(url, headers=dict(headers))
    moved = pull(
        remote,
        folder,
        progress=progress,
        digest=digest,
        force=force,
        num_parallel=num_parallel,
        limit=TimeLimit(total_s=time_limit_s),
    )
    return folder, moved


def _name_in(url: str) -> str:
    parts = [part for part in url.split("://", 1)[-1].split("?")[0].split("/") if part]
    name = parts[-2] if len(parts) > 2 and parts[-1] == "engine" else (parts[-1] if len(parts) > 1 else "")
    if not name:
        raise UsageError(f"{url}: does not end with the engine's name; give --out")
    return name
