"""How long a start may take, and what of it is done once: budgets that fit, an engine hashed once a store."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.deployments import URL, deployment_of, documents
from triton_repo.deploy.files import prepare
from triton_repo.deploy.targets import target_files
from triton_repo.serve.start_time import start_seconds

_TPFORGE = """#!/bin/sh
echo "$1 $2" >>{calls}
case "$1 $2" in
"engines verify") test -f "$3/engine.json" ;;
"engines pull") mkdir -p "$5" && echo '{{}}' >"$5/engine.json" && echo weights >"$5/rank0" ;;
esac
"""


class Node:
    """A folder in the place of a container's, with a stand-in for tpforge that counts what it is asked."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        for name in ("store", "home", "bin"):
            (folder / name).mkdir()
        deployment = deployment_of("smollm2-reference", "kubernetes", **options)
        text = prepare(deployment).replace("/srv/engines", str(folder / "store"))
        (folder / "prepare.sh").write_text(text.replace("/srv/tpforge", str(folder / "home")))
        self.engine = folder / "store" / deployment.engine_key
        (folder / "bin" / "tpforge").write_text(_TPFORGE.format(calls=folder / "calls"))
        (folder / "bin" / "tpforge").chmod(0o755)

    def start(self) -> list[str]:
        """What tpforge was asked by one start."""
        (self.folder / "calls").unlink(missing_ok=True)
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        subprocess.run(["sh", self.folder / "prepare.sh"], env={"PATH": path}, check=True)
        return (self.folder / "calls").read_text().splitlines()


@pytest.mark.parametrize("url", [URL, "https://models.example/it"])
def test_an_engine_is_hashed_once_a_store_and_again_when_a_file_of_it_changed(
    url: str, tmp_path: Path
) -> None:
    node = Node(tmp_path, engine_url=url)
    render = f"render {tmp_path / 'home' / 'engine'}"
    assert node.start() == ["engines verify", "engines pull", render]
    assert node.start() == [render], "812 GB were hashed again at every start"
    (node.engine / "rank0").write_text("weights of another size")
    assert node.start() == ["engines verify", render]
    assert node.start() == [render]
    os.utime(node.engine / "rank0", (1, 1))
    assert node.start() == ["engines verify", render], "a file was written again, with as many bytes"


def test_an_engine_of_the_host_is_proven_where_the_container_can_write(tmp_path: Path) -> None:
    node = Node(tmp_path, engine_url=None, digest=None)
    node.engine.mkdir()
    (node.engine / "engine.json").write_text("{}")
    (tmp_path / "store").chmod(0o555)
    assert node.start()[0] == "engines verify"
    assert len(node.start()) == 1
    assert [path.name for path in (tmp_path / "store").iterdir()] == [node.engine.name]


def test_the_ranks_have_the_whole_time_of_the_probe_and_workers_are_awaited_before_it() -> None:
    deployment = deployment_of("llama405b-tensorrt", "multi-node")
    files = target_files("multi-node", deployment)
    (found,) = [one for one in documents(files) if one["kind"] == "LeaderWorkerSet"]
    group = found["spec"]["leaderWorkerTemplate"]
    leader = group["leaderTemplate"]["spec"]
    assert [one["name"] for one in leader["initContainers"]] == ["prepare", "kubectl", "workers"]
    assert "until" not in files["config/leader.sh"]
    assert f"+ {deployment.start_s + 3600}))" in files["config/workers.sh"], "a worker pulls meanwhile"
    # 811.7 GB at 250 MB/s, two minutes, and five for kernels and CUDA graphs.
    assert deployment.start_s == 3667
    probe = leader["containers"][0]["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= deployment.start_s
    assert group["restartPolicy"] == "RecreateGroupAfterStart", "a restart would start pulls again"


@pytest.mark.parametrize("target", ["compose", "kubernetes", "slurm"])
def test_the_time_of_a_start_is_the_users_to_say(target: str) -> None:
    files = target_files(target, deployment_of("smollm2-reference", target, load_timeout=777))
    text = "".join(files.values())
    assert {"compose": "start_period: 777s", "kubernetes": "failureThreshold: 78", "slurm": "+ 777))"}[
        target
    ] in text
    assert "'777'" in text or " 777" in text


def test_one_formula_bounds_a_start_everywhere() -> None:
    assert start_seconds(0, runtime="reference") == 120
    assert start_seconds(500_000_001, runtime="reference") == 123
    assert (
        start_seconds(500_000_001, runtime="tensorrt") == start_seconds(500_000_001, runtime="pytorch") == 423
    )
