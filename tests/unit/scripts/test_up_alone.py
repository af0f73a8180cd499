"""Two `tpforge up` of one engine do not take each other's proof, repository and server away."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.store import read_manifest
from scripts.flows.folders.planned_folder import Built
from scripts.main import main
from tests.support.stores import write_engine
from tpforge.outputs.atomic import claimed
from tpforge.outputs.places import Places


def test_a_second_run_is_refused_before_it_touches_the_first_ones_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    places = Places(write_engine(tmp_path / "out" / "tiny" / "engine"))
    built = Built(places, read_manifest(places.engine), reused=True, notes=())
    monkeypatch.setattr("scripts.flows.build.fresh_engine", lambda *_, **__: built)
    stopped: list[str] = []
    monkeypatch.setattr("scripts.flows.up.stop_servers", lambda engine, **_: stopped.append(engine))
    (tmp_path / "recipe.toml").write_text('model = "demo"\nname = "tiny"\nruntime = "reference"\n')
    monkeypatch.chdir(tmp_path)
    with claimed(places.stages):
        assert main(["up", "recipe.toml"]) == 3
    assert "another tpforge is writing it; wait until it ends" in capsys.readouterr().err
    assert stopped == []
