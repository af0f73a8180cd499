"""`make drills`: all drills at length, a line each on stdout; exit status 1 when one found what must not be.

python -m tests.drills [--full] [--hours H] [--only NAME,NAME] [--table]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from engines import reference
from tests.drills import (
    busy,
    clients,
    clock,
    faults,
    hostile_clients,
    hostile_files,
    kills,
    memory,
    parts,
    promotions,
    requests,
    soak,
)
from tests.drills.figures import Figure
from tests.e2e.conftest import Engine, served
from tests.support.tiny_engine import write_tiny_engine
from tpforge.manifest import Limits
from tpforge.repository_options import ReferenceOptions
from triton_repo.render.repository import render

NAMES = (
    *("kills", "faults", "hostile_files"),
    *("requests", "clients", "hostile_clients", "busy", "soak"),
    *("parts", "memory", "clock", "promotions"),
)


def tiny(folder: Path) -> Engine:
    """The engine that all servers of the drills serve."""
    engine, manifest, _ = write_tiny_engine(
        folder,
        tp_size=2,
        limits=Limits(max_batch_size=8, max_input_len=1024, max_seq_len=4096),
        config_extra={"max_position_embeddings": 4096},
    )
    return Engine(engine, manifest)


def figures(
    folder: Path, names: tuple[str, ...], *, hours: float, num_kills: int, num_requests: int
) -> Iterator[Figure]:
    """The drills of these names, in the order of NAMES."""
    if {"kills", "faults"} & set(names):
        (folder / "files").mkdir()
        kills.prepare(folder / "files")
    if "kills" in names:
        yield from kills.run(folder / "files", num_kills=num_kills)
    if "faults" in names:
        yield from faults.run(folder / "files", num_steps=num_kills // 5)
    if "hostile_files" in names:
        yield hostile_files.run(folder / "hostile")
    engine = tiny(folder / "engine")
    if {"requests", "clients", "hostile_clients", "busy", "soak"} & set(names):
        with served(
            engine, folder / "lockstep", ReferenceOptions(executor="lockstep", num_threads=1)
        ) as serving:
            server = serving.server
            if "requests" in names:
                yield requests.run(server.grpc_url, server.http_url, num_requests=num_requests)
            if "clients" in names:
                yield clients.run(server.grpc_url, server.http_url, num_clients=80, num_connections=200)
            if "hostile_clients" in names:
                yield hostile_clients.run(server, num_streams=2000)
            if "busy" in names:
                yield busy.run(server, hours=hours)
            if "soak" in names:
                yield soak.run(server, hours=hours)
    if "parts" in names:
        options = ReferenceOptions(executor="processes", num_threads=1)
        out = folder / "processes" / "repository"
        source = Path(reference.__file__).parent
        rendered = render(engine.folder, engine.manifest, out=out, runtime_source=source, options=options)
        yield from parts.run(rendered.path, folder / "processes")
    if "memory" in names:
        processes = ReferenceOptions(executor="processes", num_threads=1)
        with served(engine, folder / "memory", processes) as serving:
            yield from memory.run(serving.server)
    if "clock" in names:
        yield clock.run(folder / "clock", engine)
    if "promotions" in names:
        yield promotions.run(folder / "promotions", engine)


def run(arguments: list[str]) -> int:
    """Print the lines; whether all is as it must be."""
    parser = argparse.ArgumentParser(prog="python -m tests.drills")
    parser.add_argument("--full", action="store_true", help="100 kills, 10,000 requests, 10 minutes each")
    parser.add_argument("--hours", type=float, help="of the soak and of the busy server, each [0.05]")
    parser.add_argument("--kills", type=int, help="of each command [20]")
    parser.add_argument("--requests", type=int, help="[1000]")
    parser.add_argument("--only", default=",".join(NAMES), help="drills, by commas [all]")
    parser.add_argument("--table", action="store_true", help="print a table for a page")
    given = parser.parse_args(arguments)
    usual = (1 / 6, 100, 10_000) if given.full else (0.05, 20, 1000)
    asked = (given.hours, given.kills, given.requests)
    hours, num_kills, num_requests = (
        use if one is None else one for one, use in zip(asked, usual, strict=True)
    )
    names = tuple(name for name in NAMES if name in given.only.split(","))
    good = True
    with tempfile.TemporaryDirectory(prefix="tpforge-drills-") as folder:
        os.environ["XDG_STATE_HOME"] = f"{folder}/state"
        found = figures(
            Path(folder), names, hours=hours, num_kills=int(num_kills), num_requests=int(num_requests)
        )
        if given.table:
            print("| drill | tries | counted | measured |\n|---|---|---|---|", flush=True)
        for figure in found:
            line = figure.row() if given.table else " | ".join((figure.line(), *figure.notes))
            print(line, flush=True)
            good = good and figure.is_good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
