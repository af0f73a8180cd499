"""Targets compose and dynamo-compose: what their containers may do, and that they can read their mounts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.main import main
from tests.support.deployments import deployment_of
from tests.support.stores import write_engine
from triton_repo.deploy.targets import target_files

CASES = [
    ("llama70b-tensorrt", "compose"),
    ("llama70b-trtllm-serve", "compose"),
    ("smollm2-reference", "compose"),
    ("llama70b-apart", "dynamo-compose"),
]


def compose(case: str, target: str, **changes: Any) -> dict[str, Any]:
    found = yaml.safe_load(target_files(target, deployment_of(case, target, **changes))["compose.yaml"])
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(("case", "target"), CASES)
def test_no_container_has_a_capability_or_gains_privileges(case: str, target: str) -> None:
    for name, service in compose(case, target)["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


@pytest.mark.parametrize("url", [None, "s3://models/engines/it"])
@pytest.mark.parametrize(("case", "target"), CASES)
def test_every_volume_is_mounted_by_a_service(case: str, target: str, url: str | None) -> None:
    found = compose(case, target, engine_url=url, digest="ab" * 32 if url else None)
    mounts = [mount for service in found["services"].values() for mount in service.get("volumes", [])]
    assert set(found["volumes"]) == {mount["source"] for mount in mounts if mount["type"] == "volume"}


@pytest.fixture
def careful() -> Iterator[None]:
    """A umask by which new files are their owner's alone."""
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.usefixtures("careful")
def test_containers_can_read_what_they_mount_whatever_the_umask(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = write_engine(tmp_path / "tiny" / "engine")
    assert main(["deploy", str(engine), "--target", "compose"]) == 0
    folder = tmp_path / "tiny" / "deploy-compose"
    services = yaml.safe_load((folder / "compose.yaml").read_text())["services"]
    mounted = {
        folder / mount["source"]
        for service in services.values()
        for mount in service.get("volumes", [])
        if mount["source"].startswith("./")
    }
    assert len(mounted) == 5
    for top in mounted:
        for path in (top, *top.rglob("*")):
            wanted = 0o005 if path.is_dir() else 0o004
            assert path.stat().st_mode & wanted == wanted, path
    assert (folder / "compose.yaml").stat().st_mode & 0o077 == 0, "--env may have put a secret there"
    assert f"chmod -R a+rX {engine}" in capsys.readouterr().err


def test_an_engine_that_others_can_read_is_not_warned_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = write_engine(tmp_path / "tiny" / "engine")
    for path in (engine, *engine.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert main(["deploy", str(engine), "--target", "compose"]) == 0
    assert "chmod" not in capsys.readouterr().err
