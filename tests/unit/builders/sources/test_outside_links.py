"""A link in a checkpoint's folder brings nothing of elsewhere into an engine; the hub cache's are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.main import main
from tests.support.tiny import write_tiny_llama

COMMANDS = {
    "inspect": ("inspect",),
    "build": ("build", "--runtime", "reference"),
    "pytorch": ("build", "--runtime", "pytorch"),
    "convert": ("convert",),
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_llama(tmp_path / "model")


@pytest.mark.parametrize("name", ["chat_template.jinja", "generation_config.json", "notes/secret.txt"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_link_out_of_the_folder_is_refused_by_name(
    command: str, name: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "secret").write_text("{}")
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).unlink(missing_ok=True)
    (model / name).symlink_to(tmp_path / "secret")
    out = () if command == "inspect" else ("--out", str(tmp_path / "out"))
    assert main([*COMMANDS[command], str(model), *out]) == 4
    said = capsys.readouterr()
    assert f"{model / name}: is a link out of the checkpoint" in said.out + said.err
    assert not (tmp_path / "out").exists()


def test_weights_links_within_and_the_hub_caches_are_read(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    snapshot = tmp_path / "models--a--b" / "snapshots" / "c0ffee"
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(model.iterdir())):
        path.rename(blobs / f"{number}")
        (snapshot / path.name).symlink_to(Path("..") / ".." / "blobs" / f"{number}")
    elsewhere = tmp_path / "elsewhere"
    weights = next(snapshot.glob("*.safetensors"))
    weights.resolve().rename(elsewhere)
    weights.unlink()
    weights.symlink_to(elsewhere)
    (snapshot / "copy.json").symlink_to("config.json")
    assert main(["inspect", str(snapshot), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["problems"] == []
