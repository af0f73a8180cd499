"""The batch job of an engine that trtllm-serve serves, by bash with stand-ins for Slurm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.deployments import MANIFESTS, deployment_of
from tests.support.patience import PATIENCE_S
from tests.support.ports import free_ports
from triton_repo.deploy.options import IMAGE, DeployOptions
from triton_repo.deploy.targets import target_files

SERVER = f"""#!{sys.executable}
import json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
open("words", "w").write("\\n".join([os.environ["TRTLLM_NO_USAGE_STATS"], *sys.argv[1:]]))
class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({{"choices": [{{"text": asked["model"]}}]}}).encode())
given = dict(zip(sys.argv[3::2], sys.argv[4::2]))
HTTPServer(("127.0.0.1", int(given["--port"])), Handler).serve_forever()
"""
PROGRAMS = {
    "srun": '#!/bin/sh\nfor word; do last=$word; done\ncase "$*" in *"enroot import"*)\n'
    '    for word; do case $word in *.sqsh.7) echo "$@" >"$word" ;; esac; done; exit ;;\nesac\n'
    'echo "$@" >srun-words\nexec bash "$last"\n',
    "trtllm-llmapi-launch": '#!/bin/sh\nexec "$@"\n',
    "trtllm-serve": SERVER,
    "scontrol": '#!/bin/sh\necho "$@"\n',
}


def test_the_job_starts_trtllm_serve_by_its_launcher_and_says_when_it_generates(tmp_path: Path) -> None:
    ports = free_ports()
    deployment = deployment_of("llama70b-dynamo", "slurm", port_base=ports.http)
    for name, text in target_files("slurm", deployment).items():
        (tmp_path / name).write_text(text)
    (tmp_path / "bin").mkdir()
    for name, text in PROGRAMS.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    with subprocess.Popen(
        ["bash", "job.sh"],
        cwd=tmp_path,
        env={"PATH": path, "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "7", "SLURM_PROCID": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as job:
        try:
            assert job.stdout is not None
            line = job.stdout.readline()
            assert line.startswith("job: ready on http://") and line.endswith(f":{ports.http}/v1\n")
            job.terminate()
            assert job.communicate(timeout=PATIENCE_S)[0] == "requeue 7\n"
        finally:
            if job.poll() is None:
                os.killpg(job.pid, signal.SIGKILL)
    engine = "/data/out/Llama-3.3-70B-Instruct-tp4-pytorch/engine"
    assert (tmp_path / "words").read_text().splitlines() == [
        "1", "serve", f"{engine}/model", "--host", "0.0.0.0", "--port", str(ports.http),
        "--extra_llm_api_options", "llm.yaml", "--served_model_name", engine.split("/")[3],
    ]  # fmt: skip
    assert f"{engine}:{engine}," in (tmp_path / "srun-words").read_text()
    assert "--mpi=pmix" in (tmp_path / "srun-words").read_text()
    (image,) = tmp_path.glob("*.sqsh")
    assert "docker://nvcr.io#nvidia/tensorrt-llm/release:1.3.0rc29" in image.read_text()


@pytest.mark.parametrize(
    ("case", "server", "image"),
    [
        ("llama70b-dynamo", "trtllm-serve", "nvcr.io/nvidia/tensorrt-llm/release:1.3.0rc29"),
        ("llama70b-pytorch", "triton", "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3"),
        ("llama70b-tensorrt", "triton", "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3"),
        ("smollm2-reference", "triton", IMAGE),
    ],
)
def test_triton_serves_where_one_of_its_containers_holds_the_release(
    case: str, server: str, image: str
) -> None:
    found = deployment_of(case, "slurm")
    assert (found.server, found.image) == (server, image)
    own = deployment_of(case, "slurm", image="registry/own:1")
    assert (own.server, own.image) == (server, "registry/own:1")


def test_one_rank_needs_no_launcher() -> None:
    from tpforge.shards.mapping import Mapping
    from triton_repo.deploy.deployment import plan_deployment
    from triton_repo.deploy.slurm import slurm_files

    manifest = MANIFESTS["llama70b-dynamo"].model_copy(update={"mapping": Mapping()})
    rank = slurm_files(plan_deployment(Path("/e"), manifest, DeployOptions()))["rank.sh"]
    assert "trtllm-llmapi-launch" not in rank and "launch.py --grace" in rank
