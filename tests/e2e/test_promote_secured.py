"""`tpforge promote` between servers with mutual TLS and a key, to the fallback of a decision record."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from engines import reference
from engines.store import write_manifest
from scripts.flows.decide import write_decision
from scripts.main import main
from tests.e2e.conftest import Engine, quiet
from tests.e2e.test_tls import Authority, authority, mutual
from tests.support.ended import end_server
from tests.support.ports import free_ports
from tests.support.runs import level_of, run_of
from tpforge.errors import TpforgeError
from tpforge.measure.decisions.decided import decide
from tpforge.measure.decisions.decision import Request
from tpforge.measure.runs.engine_facts import engine_facts
from tpforge.measure.runs.found_runs import FoundRun
from tpforge.outputs.places import ROUTER_FOLDER, Places
from tpforge.repository_options import ReferenceOptions
from triton_repo.client.client import Client
from triton_repo.promote.router import Router
from triton_repo.render.repository import render
from triton_repo.serve.local import ServeOptions, Server, serve
from triton_repo.serve.security import Security

__all__ = ["authority"]
pytestmark = pytest.mark.e2e


@contextmanager
def installed(name: str, engine: Engine, security: Security) -> Iterator[Server]:
    """The engine as out/NAME/engine, with a server."""
    places = Places(Path("out", name, "engine").absolute())
    shutil.copytree(engine.folder, places.engine)
    manifest = engine.manifest.model_copy(update={"name": name})
    write_manifest(places.engine, manifest)
    rendered = render(
        places.engine,
        manifest,
        out=places.repository,
        runtime_source=Path(reference.__file__).parent,
        options=ReferenceOptions(executor="lockstep", num_threads=1),
        force=False,
    )
    options = ServeOptions(state_dir=places.server, ports=free_ports(), detach=True, security=security)
    try:
        yield serve(rendered.path, options=options, progress=quiet)
    finally:
        end_server(places.server)


def decided(engine: Engine) -> None:
    """decision/ recommends green and falls back to blue, which is this engine."""
    runs = []
    for name, seconds in (("blue", 3.0), ("green", 1.5)):
        facts = engine_facts(engine.manifest.model_copy(update={"name": name}))
        values = {field: fact.value for field, fact in facts.items() if fact.value is not None}
        level, _ = level_of(((0.1, 0.1),) * 3, durations=[seconds] * 3)
        runs.append(FoundRun(Path(name), run_of(name, [level], engine=values)))
    request = Request(question="?", recommend="green", fallback="blue", because="it is faster")
    write_decision(Path("decision"), decide(runs, request))


def test_secured_servers_are_promoted_on_this_machine_only_and_go_back(
    tiny_engine: Engine,
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    decided(tiny_engine)
    security = mutual(authority, tmp_path)
    port = free_ports().grpc
    words = ["--port", str(port), "--requests", "6", "--clients", "2"]
    with ExitStack() as stack:
        blue, green = (
            stack.enter_context(installed(name, tiny_engine, security)) for name in ("blue", "green")
        )
        stack.callback(Router(ROUTER_FOLDER).stop)
        assert main(["promote", "blue", *words, "--host", "0.0.0.0", "--max-p95-ms", "200000"]) == 2
        assert "listens on this machine only" in " ".join(capsys.readouterr().err.split())
        assert main(["promote", "blue", *words, "--max-p95-ms", "200000"]) == 0
        said = capsys.readouterr().err
        assert " 0 failed" in said
        with Client(f"127.0.0.1:{port}") as plain:
            assert plain.generate("Hello", max_tokens=2).text
        with Client(green.grpc_url, deadline_s=5) as plain, pytest.raises(TpforgeError):
            plain.generate("Hello", max_tokens=2)
        recorded = ["promote", "green", *words, "--decision", "decision"]
        assert main([*recorded, "--max-p95-ms", "0.5"]) == 7
        assert active() == blue.grpc_url
        assert main([*recorded, "--max-p95-ms", "200000"]) == 0
        assert active() == green.grpc_url
        assert "fallback  " + str(Path("out/blue/engine")) in capsys.readouterr().out
        shutil.rmtree("out/blue/engine/checkpoint")
        assert main([*recorded, "--max-p95-ms", "200000"]) == 4
        assert "is not the fallback engine blue (run blue) of decision" in capsys.readouterr().err


def active() -> str:
    return Router(ROUTER_FOLDER).status().active.target
