"""What `serve` says once a server answers: how it is stopped, by the words that `stop` understands."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.cli.output import Output
from scripts.cli.show_server import print_ready
from triton_repo.serve.local import Server
from triton_repo.serve.ports import Ports


def said_of(engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    server = Server(
        state_dir=tmp_path / "server",
        repository=tmp_path / "repository",
        host="localhost",
        ports=Ports.from_base(8000),
        pid=1,
        log=tmp_path / "triton.log",
        seconds_to_ready=1.0,
    )
    print_ready(Output(as_json=False), server, engine=engine, detach=True)
    return capsys.readouterr().err


def test_a_server_of_an_engine_elsewhere_is_stopped_by_the_engines_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`stop` alone looks under out/."""
    monkeypatch.chdir(tmp_path)
    elsewhere = tmp_path / "my models" / "engine"
    assert f"tpforge stop '{elsewhere}'" in said_of(elsewhere, tmp_path, capsys)
    assert said_of(Path("out/smol/engine"), tmp_path, capsys).endswith("tpforge stop\n")
