"""`tpforge serve` for TensorRT-LLM: the commands, and what keeps them from being run."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engines.host import Host, parse_gpus
from engines.runtime import find_doubts, find_misfits
from scripts.main import main
from tests.support.hosts import GIB, gpu, host_of
from tests.support.records import manifest_of
from tests.support.tiny_engine import write_tiny_engine
from tpforge.errors import UsageError
from tpforge.manifest import EngineBuild, FileRecord, Manifest
from tpforge.shards.mapping import Mapping
from tpforge.topology import links_of, parse_topology
from tpforge.trtllm.versions import find_release
from triton_repo.deploy.shell import join_lines
from triton_repo.serve.docker import Container, container_command
from triton_repo.serve.mpirun import (
    TritonArguments,
    leader_command,
    llmapi_command,
    orchestrator_command,
    parse_devices,
)
from triton_repo.serve.ports import Ports

RELEASE = find_release("1.2.1")


ARGUMENTS = TritonArguments(Path("/r"), Ports.from_base(9000), "tritonserver", prefix="p")


def test_leader_mode_starts_a_server_a_rank_and_only_the_first_has_all_models() -> None:
    first, second = " ".join(leader_command(ARGUMENTS, world_size=2).words).split(" : ")
    ports = "--http-port=9000 --grpc-port=9001 --metrics-port=9002"
    end = "--disable-auto-complete-config --backend-config=python,shm-region-prefix-name=p"
    start = "-n 1 tritonserver --model-repository=/r"
    histograms = "--metrics-config=histogram_latencies=true"
    assert first == f"mpirun --allow-run-as-root {start} {ports} {histograms} {end}0_"
    assert second == f"{start} {ports} --model-control-mode=explicit --load-model=tensorrt_llm {end}1_"


def test_every_rank_is_told_how_long_requests_in_flight_may_go_on() -> None:
    for command in (
        leader_command(replace(ARGUMENTS, drain_s=90.5), world_size=2),
        orchestrator_command(replace(ARGUMENTS, drain_s=90.5), num_gpus=2),
        llmapi_command(replace(ARGUMENTS, drain_s=90.5), world_size=2),
    ):
        assert command.words.count("--exit-timeout-secs=91") == command.words.count("tritonserver")


def test_leader_mode_has_as_many_processes_as_ranks() -> None:
    words = leader_command(ARGUMENTS, world_size=8, oversubscribe=True).words
    assert words.count("tritonserver") == 8
    assert words.count(":") == 7
    assert words[2] == "--oversubscribe"


def test_orchestrator_mode_is_one_process_without_memory_pools() -> None:
    command = orchestrator_command(ARGUMENTS, num_gpus=2)
    assert command.words.count("tritonserver") == 1
    assert command.words[:4] == ("mpirun", "--allow-run-as-root", "-n", "1")
    assert "--cuda-memory-pool-byte-size=1:0" in command.words
    assert command.environment == {
        "TRTLLM_ORCHESTRATOR": "1",
        "TRTLLM_ORCHESTRATOR_SPAWN_PROCESSES": "1",
    }


def test_the_llm_api_needs_mpi_for_more_than_one_rank_only() -> None:
    assert llmapi_command(ARGUMENTS, world_size=1).words[0] == "tritonserver"
    words = llmapi_command(ARGUMENTS, world_size=4).words
    assert words[:6] == ("mpirun", "--allow-run-as-root", "-n", "4", "trtllm-llmapi-launch", "tritonserver")


def test_a_container_gets_its_gpus_ports_folders_and_no_way_to_the_hub() -> None:
    container = Container("image", "name", (2, 3), (Path("/b"), Path("/a"), Path("/a")), Ports())
    command = container_command(container, orchestrator_command(ARGUMENTS, num_gpus=2))
    text = " ".join(command.words)
    assert text.startswith(
        'docker run --rm --name name --gpus "device=2,3" --shm-size 16g --ulimit memlock=-1'
    )
    assert "--publish 127.0.0.1:8001:8001" in text
    assert "--volume /a:/a:ro --volume /b:/b:ro" in text
    assert "--env HF_HUB_OFFLINE=1" in text
    assert "--env TRTLLM_ORCHESTRATOR=1" in text
    assert " image mpirun " in text


def test_podman_names_each_gpu() -> None:
    container = Container("image", "name", (0, 1), (), engine="podman")
    words = container_command(container, llmapi_command(ARGUMENTS, world_size=1)).words
    assert words[5:9] == ("--device", "nvidia.com/gpu=0", "--device", "nvidia.com/gpu=1")


@pytest.mark.parametrize(
    ("given", "said"), [("0,0", "given twice"), ("a", "expected numbers"), ("0,1,2", "3 GPUs")]
)
def test_gpus_that_do_not_fit_the_ranks_are_refused(given: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_devices(given, world_size=2)


def test_the_shell_gets_the_words_that_the_process_would() -> None:
    words = container_command(
        Container("image", "name", (0, 1), (Path("/with space"),)), leader_command(ARGUMENTS, world_size=2)
    ).words
    text = join_lines(words, heads=("image", "mpirun"))
    done = subprocess.run(["sh", "-c", f"printf '%s\\n' {text}"], capture_output=True, text=True, check=True)
    assert tuple(done.stdout.splitlines()) == words


def test_gpus_are_read_as_nvidia_smi_prints_them() -> None:
    text = (
        "0, NVIDIA H100 80GB HBM3, GPU-aa, 81559, 1024, 9.0, 580.95.05\n"
        "1, NVIDIA H100 80GB HBM3, GPU-bb, 81559, 0, 9.0, 580.95.05\n"
    )
    gpus, driver = parse_gpus(text)
    assert driver == "580.95.05"
    assert [(gpu.index, gpu.sm, gpu.free_bytes) for gpu in gpus] == [
        (0, 90, (81559 - 1024) << 20),
        (1, 90, 81559 << 20),
    ]


def test_links_are_read_from_the_matrix_of_nvidia_smi() -> None:
    text = (
        "\t\x1b[4mGPU0\tGPU1\tGPU2\tCPU Affinity\x1b[0m\n"
        "GPU0\t X \tNV18\tSYS\t0-31\nGPU1\tNV18\t X \tSYS\t0-31\nGPU2\tSYS\tSYS\t X \t32-63\n"
        "\nLegend:\n  SYS = whatever\n"
    )
    assert links_of(parse_topology(text)) == ((0, 1, "NV18"), (0, 2, "SYS"), (1, 2, "SYS"))


@pytest.fixture
def engine(tmp_path: Path) -> tuple[Path, Manifest]:
    (tmp_path / "engine").mkdir()
    for rank in range(2):
        (tmp_path / "engine" / f"rank{rank}.engine").write_bytes(b"x")
    (tmp_path / "engine" / "config.json").write_text(json.dumps({"version": "1.2.1"}))
    files = tuple(FileRecord(path=f"engine/rank{rank}.engine", size=40 * GIB, sha256="0") for rank in (0, 1))
    build = EngineBuild(
        trtllm="1.2.1", tensorrt="10.14.1.48", cuda="13.1.0", arguments={}, command=("x",), sm=90
    )
    changes = {"runtime": "tensorrt", "mapping": Mapping(tp_size=2), "files": files, "engine_build": build}
    return tmp_path, manifest_of().model_copy(update=changes)


def misfits(engine: tuple[Path, Manifest], host: Host, *, container: bool = True) -> list[str]:
    return find_misfits(*engine, host, release=RELEASE, devices=(0, 1), container=container)


def test_an_engine_on_the_host_that_it_was_built_for_has_no_misfit(engine: tuple[Path, Manifest]) -> None:
    assert misfits(engine, host_of()) == []
    assert misfits(engine, host_of(), container=False) == []
    assert find_doubts(host_of(), release=RELEASE, devices=(0, 1)) == []


@pytest.mark.parametrize(
    ("changes", "container", "said"),
    [
        ({"gpus": ()}, True, "this host has 0, the engine needs 2"),
        ({"gpus": (gpu(0), gpu(1, sm=80))}, True, "is SM 80, the engine was built for SM 90"),
        (
            {"gpus": (gpu(0), gpu(1, used=40 * GIB))},
            True,
            "40.0 GiB of 80.0 GiB are free; a rank's",
        ),
        ({"gpus": (gpu(0), gpu(2))}, True, "GPU 1: this host has 0, 2"),
        ({"cuda": "12.4", "driver": "550.54.14"}, True, "supports CUDA 12.4"),
        ({"has_nvidia_containers": False}, True, "container toolkit: not found"),
        ({"packages": ()}, False, "tensorrt_llm: not installed here"),
        ({"packages": (("tensorrt_llm", "1.1.0"),)}, False, "1.1.0 is installed, the engine is of 1.2.1"),
        (
            {"packages": (("tensorrt_llm", "1.2.1"), ("tensorrt", "10.13.3"))},
            False,
            "tensorrt: 10.13.3 is installed, the engine was built with 10.14.1.48",
        ),
        ({"shm_free_bytes": 64 << 20}, False, "/dev/shm: 64.0 MiB are free"),
    ],
)
def test_a_host_that_does_not_fit_is_refused_with_both_sides(
    engine: tuple[Path, Manifest], changes: dict[str, Any], container: bool, said: str
) -> None:
    (problem,) = misfits(engine, host_of(**changes), container=container)
    assert said in problem


def test_a_folder_that_lost_a_rank_is_refused(engine: tuple[Path, Manifest]) -> None:
    (engine[0] / "engine" / "rank1.engine").unlink()
    (problem,) = misfits(engine, host_of())
    assert "1 rank files for tp x pp = 2 ranks" in problem


def test_a_file_that_may_not_be_read_is_refused(
    engine: tuple[Path, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = engine[0] / "engine" / "rank1.engine"
    monkeypatch.setattr("engines.runtime.os.access", lambda path, _mode: path != closed)
    (problem,) = misfits(engine, host_of())
    assert problem == f"{closed}: this user may not read it; change its permissions"


def test_an_engine_of_another_release_than_its_manifest_says_is_refused(
    engine: tuple[Path, Manifest],
) -> None:
    (engine[0] / "engine" / "config.json").write_text(json.dumps({"version": "1.1.0"}))
    (problem,) = misfits(engine, host_of())
    assert "made by TensorRT-LLM 1.1.0, but engine.json says 1.2.1" in problem


def test_options_of_a_launch_are_usage_errors_for_an_engine_of_the_reference_runtime(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine, _, _ = write_tiny_engine(tmp_path, tp_size=2)
    serve = ["serve", str(engine)]
    assert main([*serve, "--container", "docker", "--devices", "0,1"]) == 2
    said = "--container, --devices: for TensorRT-LLM; this engine is of the reference runtime"
    assert said in capsys.readouterr().err
    assert main([*serve, "--stand-in"]) == 2
    assert "--stand-in: is for engines of runtime tensorrt" in capsys.readouterr().err


def test_slow_links_and_an_older_driver_are_doubts() -> None:
    host = host_of(links=((0, 1, "SYS"),), driver="580.95.05")
    first, second = find_doubts(host, release=RELEASE, devices=(0, 1))
    assert "joined by SYS, not NVLink" in first
    assert "driver 580.95.05 is older than 590.44.01" in second
    assert find_doubts(host, release=RELEASE, devices=(0,)) == [second]
