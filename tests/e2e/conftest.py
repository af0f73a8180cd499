"""Servers of a tiny engine that went the whole way: checkpoint, engine, proof, repository, Triton."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from engines import reference
from engines.parity.parity import measure_parity
from engines.store import write_manifest
from tests.support.ended import end_server
from tests.support.ports import free_ports
from tests.support.tiny_engine import write_tiny_engine
from tpforge.manifest import Limits, Manifest
from tpforge.repository_options import ReferenceOptions
from triton_repo.render.repository import render
from triton_repo.serve.local import ServeOptions, Server, serve


@dataclass(frozen=True)
class Serving:
    """A server with the engine that it serves."""

    server: Server
    manifest: Manifest


@dataclass(frozen=True)
class Engine:
    """A verified engine."""

    folder: Path
    manifest: Manifest


def quiet(_message: str) -> None:
    """Progress that nobody reads."""


@pytest.fixture(scope="session")
def tiny_engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """tp=2 of a seeded llama of 2 layers, proven against transformers, with golden answers."""
    engine, manifest, source = write_tiny_engine(
        tmp_path_factory.mktemp("tiny"),
        tp_size=2,
        limits=Limits(max_batch_size=8, max_input_len=1024, max_seq_len=4096),
        config_extra={"max_position_embeddings": 4096},
    )
    parity, golden = measure_parity(engine, manifest, source_path=source, progress=quiet)
    assert parity.passed, parity.problems
    manifest = manifest.model_copy(update={"parity": parity, "golden": golden})
    write_manifest(engine, manifest)
    return Engine(engine, manifest)


@contextmanager
def served(engine: Engine, folder: Path, options: ReferenceOptions) -> Iterator[Serving]:
    """Render and serve an engine; everything is stopped at the end."""
    rendered = render(
        engine.folder,
        engine.manifest,
        out=folder / "repository",
        runtime_source=Path(reference.__file__).parent,
        options=options,
        force=False,
    )
    where = ServeOptions(state_dir=folder / "server", ports=free_ports(), detach=True)
    server = serve(rendered.path, options=where, progress=quiet)
    try:
        yield Serving(server, engine.manifest)
    finally:
        end_server(where.state_dir)


@pytest.fixture(scope="session")
def lockstep(tiny_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """All ranks in one process, one thread."""
    options = ReferenceOptions(executor="lockstep", num_threads=1)
    with served(tiny_engine, tmp_path_factory.mktemp("lockstep"), options) as serving:
        yield serving


@pytest.fixture(scope="session")
def processes_server(tiny_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """One process per rank."""
    options = ReferenceOptions(executor="processes", num_threads=1)
    with served(tiny_engine, tmp_path_factory.mktemp("processes"), options) as serving:
        yield serving
