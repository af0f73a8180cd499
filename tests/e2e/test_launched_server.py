"""`serve --detach` for TensorRT-LLM's runtimes, with a stand-in for docker that runs the real Triton here.

`tensorrt_llm` is served by the reference runtime in the stand-in's place; TensorRT-LLM itself is not run.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engines import reference
from engines.host import Gpu, Host
from engines.store import write_manifest
from scripts.main import main
from tests.e2e.conftest import Engine
from tests.support.patience import PATIENCE_S, wait_until
from tests.support.ports import free_ports
from tests.support.servers.standin_docker import write_docker
from tests.support.servers.standin_trtllm_build import write_standin
from tests.support.tiny import write_tiny_llama
from tpforge.errors import TpforgeError
from tpforge.manifest import EngineBuild
from tpforge.repository_options import TensorrtOptions
from triton_repo.client.client import Client, RequestRefused, Tls
from triton_repo.render.tensorrt import render_tensorrt
from triton_repo.serve.processes import marked
from triton_repo.serve.security import GRPC_ADMIN_HEADER
from triton_repo.serve.state import read_state

pytestmark = [pytest.mark.e2e, pytest.mark.apart]

GIB = 1 << 30
GPUS = tuple(Gpu(index, "H100", f"GPU-{index}", 80 * GIB, 0, 90) for index in range(2))
HOST = Host(gpus=GPUS, driver="999.0", cuda="13.1", has_nvidia_containers=True, shm_free_bytes=64 * GIB)
PORT = free_ports().http


@pytest.fixture
def calls(tiny_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """out/tiny/engine of runtime tensorrt on a host with two GPUs; the calls of the stand-in for docker."""
    engine = tmp_path / "out" / "tiny" / "engine"
    shutil.copytree(tiny_engine.folder, engine)
    (engine / "engine").mkdir()
    for rank in range(2):
        (engine / "engine" / f"rank{rank}.engine").write_bytes(b"stand-in")
    (engine / "engine" / "config.json").write_text('{"version": "1.2.1"}')
    build = EngineBuild(
        trtllm="1.2.1", tensorrt="10.14.1.48", cuda="13.1.0", arguments={}, command=("x",), sm=90
    )
    manifest = tiny_engine.manifest.model_copy(update={"runtime": "tensorrt", "engine_build": build})
    write_manifest(engine, manifest)
    stand_in = render_tensorrt(
        engine,
        manifest,
        out=tmp_path / "stand-in",
        runtime_source=Path(reference.__file__).parent,
        options=TensorrtOptions(stand_in=True, num_threads=1),
    )
    calls = write_docker(tmp_path / "docker", repository=stand_in.path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'docker' / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("engines.host.find_host", lambda: HOST)
    monkeypatch.chdir(tmp_path)
    yield calls
    assert main(["stop", "--all"]) == 0


def json_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    status = main([*arguments, "--json"])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    value = json.loads(captured.out)
    assert isinstance(value, dict)
    return value


def serve(*more: str) -> int:
    return main(["serve", "tiny", "--port-base", str(PORT), "--container", "docker", "--detach", *more])


def test_a_detached_launch_is_found_by_every_command_and_removed_by_stop(
    calls: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve() == 0
    server = json_of(capsys, "status")["servers"][0]
    assert (server["phase"], server["answers"]) == ("ready", True)
    run = json.loads(calls.read_text().splitlines()[0])
    name, label = (run[run.index(word) + 1] for word in ("--name", "--label"))
    assert run[0] == "run" and "--rm" in run and label.startswith("tpforge.server=tpforge-")
    assert f"--id={name}" in run

    assert json_of(capsys, "generate", "One, two,", "--max-tokens", "3")["text"]
    assert any("Started GRPCInferenceService" in line for line in json_of(capsys, "logs", "tiny")["lines"])

    assert serve() == 3
    assert "runs already" in capsys.readouterr().err
    assert json_of(capsys, "status")["servers"][0]["server"]["pid"] == server["server"]["pid"]

    assert [row["was"] for row in json_of(capsys, "stop")["stopped"]] == ["ready"]
    assert words_of(calls)[-1] == ["ps", "--all", "--quiet", "--no-trunc", "--filter", f"label={label}"]
    assert json_of(capsys, "status")["servers"] == []


def words_of(calls: Path) -> list[list[str]]:
    """The words of every call of the stand-in."""
    return [json.loads(line) for line in calls.read_text().splitlines()]


def test_equal_names_and_ports_on_two_addresses_do_not_end_each_other(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve() == 0
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "out", other / "out", ignore=shutil.ignore_patterns("server"))
    monkeypatch.chdir(other)
    assert serve("--host", "127.0.0.2") == 0
    first, second = (words for words in words_of(calls) if words[0] == "run")
    names = [words[words.index("--name") + 1] for words in (first, second)]
    assert len(set(names)) == 2 and len({name.rpartition("-")[0] for name in names}) == 1
    assert [row["was"] for row in json_of(capsys, "stop")["stopped"]] == ["ready"]
    monkeypatch.chdir(tmp_path)
    server = json_of(capsys, "status")["servers"][0]
    assert (server["phase"], server["answers"], server["restarts"]) == ("ready", True, 0)


def test_a_container_of_the_same_name_that_is_not_ours_is_left_alone(
    calls: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = json_of(
        capsys, "serve", "tiny", "--port-base", str(PORT), "--container", "docker", "--dry-run"
    )["command"]
    with subprocess.Popen(["sleep", "60"]) as foreign:
        record = {"name": command[command.index("--name") + 1], "label": "tpforge.server=another"}
        (tmp_path / "docker" / "containers" / str(foreign.pid)).write_text(json.dumps(record))
        try:
            assert serve() == 4
            assert "The container name is in use" in capsys.readouterr().err
            assert main(["stop", "--all"]) == 0
            assert foreign.poll() is None, "it was removed by its name"
        finally:
            foreign.kill()


@pytest.mark.parametrize(("program", "container"), [("podman", "podman"), ("mpirun", "none")])
def test_podman_and_mpirun_are_launched_and_ended_as_docker_is(
    calls: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    program: str,
    container: str,
) -> None:
    write_docker(tmp_path / "docker", repository=tmp_path / "stand-in", program=program)
    packages = (("tensorrt_llm", "1.2.1"), ("tensorrt", "10.14.1.48"))
    monkeypatch.setattr("engines.host.find_host", lambda: replace(HOST, packages=packages))
    arguments = ["serve", "tiny", "--port-base", str(PORT), "--container", container, "--detach"]
    assert main(arguments) == 0
    state = read_state(tmp_path / "out" / "tiny" / "server")
    assert state is not None
    assert len(marked(state.mark)) > 1
    assert json_of(capsys, "generate", "One, two,", "--max-tokens", "3")["text"]
    regions = [path for path in Path("/dev/shm").iterdir() if path.name.startswith(f"tpforge-tiny-{PORT}-")]
    assert (regions != []) == (program == "mpirun")
    if program == "mpirun":  # Killed, Triton leaves them.
        for process in marked(state.mark):
            os.kill(process.pid, signal.SIGKILL)
    assert len(json_of(capsys, "stop")["stopped"]) == 1
    assert marked(state.mark) == []
    assert [path for path in regions if path.exists()] == []
    words = [json.loads(line) for line in calls.read_text().splitlines()]
    if program == "podman":
        assert words[0][0] == "run" and "--rm" in words[0]
        assert [word for word in words[0] if word.startswith("nvidia.com/gpu=")] == [
            "nvidia.com/gpu=0",
            "nvidia.com/gpu=1",
        ]
        assert words[-1][0] in ("ps", "rm"), "what is left of the container is looked for by its label"
    else:
        assert words[0][:3] == ["--allow-run-as-root", "-n", "1"]
        assert len(words) == 1


def test_a_container_that_dies_first_is_an_error_with_the_end_of_its_log(
    calls: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "docker: Error response from daemon: pull access denied"
    write_docker(tmp_path / "docker", repository=tmp_path, dies=said)
    assert serve() == 4
    error = capsys.readouterr().err
    assert "docker ended with exit status 125; the end of" in error
    assert said in error
    assert main(["stop", "--all"]) == 0


def test_ctrl_c_while_it_loads_leaves_no_process_and_removes_the_container(
    calls: Path, tmp_path: Path
) -> None:
    script = (
        "import sys, engines.host; from tests.e2e.test_launched_server import HOST, main\n"
        "engines.host.find_host = lambda: HOST; sys.exit(main(sys.argv[1:]))"
    )
    words = ["serve", "tiny", "--port-base", str(PORT), "--container", "docker"]
    root = str(Path(__file__).parents[2])
    child = subprocess.Popen(
        [sys.executable, "-c", script, *words],
        env={**os.environ, "PYTHONPATH": root},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_until(calls.is_file, "docker was asked")
    child.send_signal(signal.SIGINT)
    child.wait(PATIENCE_S)
    run, last = words_of(calls)[0], words_of(calls)[-1]
    assert (last[0], last[-1]) == ("ps", f"label={run[run.index('--label') + 1]}")
    assert read_state(tmp_path / "out" / "tiny" / "server") is None


RECIPE = """
model = "../model"
tp = 2
name = "up"
runtime = "tensorrt"
sm = 90
[limits]
max_batch_size = 4
max_input_len = 200
[serve]
port_base = {port}
container = "docker"
[smoke]
enabled = false
"""


def test_up_does_each_stage_of_compiled_engines_once(
    calls: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiny_llama(tmp_path / "model")
    write_standin(tmp_path / "docker" / "bin")
    recipe = tmp_path / "work" / "recipe.toml"
    recipe.parent.mkdir()
    recipe.write_text(RECIPE.format(port=PORT))
    outcomes = []
    for _ in range(2):
        stages = json_of(capsys, "up", str(recipe))["stages"]
        outcomes.append({stage["name"]: stage["outcome"] for stage in stages})
    names = ("build", "verify", "render", "serve")
    assert outcomes == [dict.fromkeys(names, "done"), dict.fromkeys(names, "unchanged")]
    assert "not the compiled engines" in stages[1]["result"]
    assert len([line for line in calls.read_text().splitlines() if line.startswith('["run"')]) == 1

    assert main(["up", str(recipe), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "$ trtllm-build" in said
    assert "docker run" in said


KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def secured(tmp_path: Path) -> list[str]:
    """Options of mutual TLS with one certificate that signed itself, and of a key; only files are named."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not on PATH")
    certificate, key = tmp_path / "tls.pem", tmp_path / "tls.key"
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=llm.example"]
    names = ["-addext", "subjectAltName=DNS:llm.example", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", *words, *names], check=True, capture_output=True)
    (tmp_path / "admin.key").write_text(f"{KEY}\n")
    files = ["--tls-cert", "tls.pem", "--tls-key", "tls.key", "--tls-client-root", "tls.pem"]
    return [*files, "--tls-name", "llm.example", "--admin-key-file", "admin.key"]


def test_a_launch_is_told_of_certificates_and_the_dry_run_does_not_tell_the_key(
    calls: Path, secured: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not calls.exists()
    everywhere = ["--host", "0.0.0.0", *secured]
    words = json_of(
        capsys, "serve", "tiny", "--container", "docker", "--port-base", str(PORT), "--dry-run", *everywhere
    )["command"]
    assert KEY not in " ".join(words)
    volumes = {words[place + 1] for place, word in enumerate(words) if word == "--volume"}
    assert {f"{tmp_path}/tls.{end}:{tmp_path}/tls.{end}:ro" for end in ("pem", "key")} <= volumes
    assert not any("admin.key" in volume for volume in volumes)
    published = [words[place + 1] for place, word in enumerate(words) if word == "--publish"]
    hosts = {"http": "127.0.0.1", "grpc": "0.0.0.0", "metrics": "127.0.0.1"}
    assert published == [f"{host}:{PORT + i}:{PORT + i}" for i, host in enumerate(hosts.values())]
    first, others = words[: words.index(":")], words[words.index(":") :]
    protocols = "shared-memory,model-repository,statistics,trace,logging"
    for word in (
        "--grpc-use-ssl-mutual=true",
        f"--grpc-server-cert={tmp_path}/tls.pem",
        f"--grpc-server-key={tmp_path}/tls.key",
        f"--grpc-root-cert={tmp_path}/tls.pem",
        f"--grpc-restricted-protocol={protocols}:tpforge-admin={{admin-key}}",
    ):
        assert first.count(word) == 1 and word not in others
    words = json_of(
        capsys, "serve", "tiny", "--container", "none", "--port-base", str(PORT), "--dry-run", *everywhere
    )["command"]
    addresses = {word for word in words if "-address=" in word}
    assert addresses == {
        "--http-address=127.0.0.1",
        "--grpc-address=0.0.0.0",
        "--metrics-address=127.0.0.1",
    }
    words = json_of(capsys, "serve", "tiny", "--container", "none", "--port-base", str(PORT), "--dry-run")[
        "command"
    ]
    assert [word for word in words if "-address=" in word] == [
        "--http-address=127.0.0.1",
        "--grpc-address=127.0.0.1",
        "--metrics-address=127.0.0.1",
    ]


def test_an_image_that_must_be_downloaded_is_told_before(
    calls: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["serve", "tiny", "--port-base", str(PORT), "--container", "docker", "--dry-run"]
    assert main(arguments) == 0
    assert "not on this host" not in capsys.readouterr().err
    write_docker(tmp_path / "docker", repository=tmp_path, lacks_image=True)
    assert main(arguments) == 0
    assert "26.07-trtllm-python-py3: not on this host; `docker pull` it first" in capsys.readouterr().err


def test_a_launched_server_serves_who_has_certificate_and_key(
    calls: Path, secured: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve(*secured) == 0
    server = json_of(capsys, "status")["servers"][0]
    assert (server["phase"], server["answers"]) == ("ready", True)
    assert f"tpforge-admin={KEY}" in calls.read_text(), "docker was not given the key"
    kept = [path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.suffix != ".log"]
    assert [path.name for path in kept if KEY.encode() in path.read_bytes()] == []
    url = f"127.0.0.1:{PORT + 1}"
    pem, own = tmp_path / "tls.pem", tmp_path / "tls.key"
    tls = Tls(pem, own, pem, server_name="llm.example")
    with Client(url, tls=tls, headers={GRPC_ADMIN_HEADER: KEY}) as client:
        assert "tensorrt_llm" in {model.name for model in client.models()}
    with Client(url, tls=tls) as client, pytest.raises(RequestRefused, match="restricted"):
        client.models()
    for other in (None, Tls(pem, server_name="llm.example")):
        with Client(url, tls=other, deadline_s=5) as client, pytest.raises(TpforgeError):
            client.metadata("tensorrt_llm")
