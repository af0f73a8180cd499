"""`tpforge status` tells of the router too, which clients of a promoted engine ask."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.main import main
from tests.support.ports import free_ports
from triton_repo.promote.router import Route, Router


def test_the_router_and_where_it_sends_requests_are_shown_while_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("scripts.flows.status.ROUTER_FOLDER", tmp_path / "router")
    monkeypatch.chdir(tmp_path)
    assert main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["router"] is None
    router = Router(tmp_path / "router")
    router.turn(Route(target="127.0.0.1:8011", engine="out/next/engine"))
    url = router.start(host="127.0.0.1", port=free_ports().http).url
    try:
        assert main(["status"]) == 0
        assert f"router {url}: new requests go to out/next/engine (127.0.0.1:8011)" in capsys.readouterr().out
        assert main(["status", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)["router"]
        assert found == {"url": url, "engine": "out/next/engine", "target": "127.0.0.1:8011"}
    finally:
        router.stop()
    assert main(["status"]) == 0
    assert "router" not in capsys.readouterr().out
