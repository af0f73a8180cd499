"""`tpforge doctor`: a verdict on every part of a host."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engines.host import Gpu, Host
from engines.host_verdicts import judge_host, newest_for
from scripts.main import main
from tpforge.trtllm.versions import find_release

GIB = 1 << 30
RELEASE = find_release("1.2.1")


def gpu(index: int, *, sm: int = 90, used: int = 0) -> Gpu:
    return Gpu(index, "NVIDIA H100 80GB HBM3", f"GPU-{index}", 80 * GIB, used, sm)


def host_of(**changes: Any) -> Host:
    values: dict[str, Any] = {
        "gpus": (gpu(0), gpu(1)),
        "driver": "590.44.01",
        "cuda": "13.1",
        "links": ((0, 1, "NV18"),),
        "shm_bytes": 64 * GIB,
        "shm_free_bytes": 64 * GIB,
        "memory_bytes": 512 * GIB,
        "programs": (("docker", "/usr/bin/docker"),),
        "has_nvidia_containers": True,
    }
    return Host(**{**values, **changes})


def verdicts(host: Host) -> dict[str, tuple[str, str]]:
    findings = judge_host(host, release=RELEASE).findings
    return {one.part: (one.verdict, one.advice) for one in findings}


def test_a_server_with_two_free_gpus_and_the_toolkit_serves_from_the_container() -> None:
    diagnosis = judge_host(host_of(), release=RELEASE)
    found = verdicts(host_of())
    assert [found[part][0] for part in ("GPU 0", "GPU 1", "links", "driver", "containers")] == ["ok"] * 5
    assert found["TensorRT-LLM"] == (
        "missing",
        "use the container nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3, or the extra "
        "tensorrt-llm in an environment of its own",
    )
    assert diagnosis.works[1:] == (
        "tensorrt: compile and serve with TensorRT-LLM 1.2.1, 2 GPUs",
        "pytorch: serve with TensorRT-LLM's LLM API, 2 GPUs",
    )


def test_without_a_gpu_it_says_what_works() -> None:
    host = host_of(gpus=(), driver=None, cuda=None, links=(), notes=("no driver",))
    diagnosis = judge_host(host, release=RELEASE)
    assert verdicts(host)["GPUs"][0] == "missing"
    assert diagnosis.works[0] == "reference: build, verify, render, serve, smoke and measure, on the CPU"
    assert "--dry-run" in diagnosis.works[1]


def test_docker_without_its_daemon_is_missing_and_nothing_is_promised_by_it() -> None:
    silent = {"docker": "docker: Cannot connect to the Docker daemon"}
    diagnosis = judge_host(host_of(), release=RELEASE, silent=silent)
    (finding,) = [one for one in diagnosis.findings if one.part == "containers"]
    assert (finding.verdict, finding.found) == ("missing", "docker: Cannot connect to the Docker daemon")
    assert "nothing compiled" in diagnosis.works[1]


def test_an_old_driver_is_told_which_release_it_can_run() -> None:
    verdict, advice = verdicts(host_of(driver="560.35.05", cuda="12.6"))["driver"]
    assert verdict == "missing"
    assert "needs 590.44.01 or newer; this driver runs the container of 1.0.0" in advice
    release = newest_for("12.6")
    assert release is not None
    assert release.cuda == "12.9.1"


def test_a_driver_of_the_same_cuda_major_is_a_warning() -> None:
    verdict, advice = verdicts(host_of(driver="580.95.05", cuda="13.0"))["driver"]
    assert (verdict, "minor version compatibility" in advice) == ("warning", True)


@pytest.mark.parametrize(
    ("changes", "part", "verdict"),
    [
        ({"gpus": (gpu(0), gpu(1, used=40 * GIB))}, "GPU 1", "warning"),
        ({"gpus": (gpu(0), gpu(1, sm=80))}, "GPUs", "warning"),
        ({"links": ((0, 1, "SYS"),)}, "links", "warning"),
        ({"has_nvidia_containers": False}, "containers", "missing"),
        ({"programs": ()}, "containers", "missing"),
        ({"shm_free_bytes": 64 << 20}, "/dev/shm", "warning"),
        ({"packages": (("tensorrt_llm", "1.1.0"),)}, "TensorRT-LLM", "warning"),
        ({"packages": (("tensorrt_llm", "1.2.1"),)}, "trtllm-build", "warning"),
    ],
)
def test_what_is_not_right_has_advice(changes: dict[str, Any], part: str, verdict: str) -> None:
    found = verdicts(host_of(**changes))[part]
    assert found[0] == verdict
    assert found[1] != ""


@pytest.mark.parametrize(
    ("installed", "said"),
    [
        ("1.2.1", ""),
        ("1.1.0", "its arguments are not sure: `tpforge versions --learn` asks it"),
        ("1.9.9", "no table knows this release: `tpforge versions --learn` asks it"),
        ("1.4.0rc3", "judged for 1.2.1; build with --trtllm 1.4.0rc3; its arguments are not sure"),
    ],
)
def test_an_installed_release_is_compared_with_what_is_known_of_it(installed: str, said: str) -> None:
    verdict, advice = verdicts(host_of(packages=(("tensorrt_llm", installed),)))["TensorRT-LLM"]
    assert (verdict, said in advice) == ("ok" if not said else "warning", True)


def test_a_release_whose_driver_upstream_does_not_give_is_judged_by_its_cuda() -> None:
    release = find_release("1.4.0rc1")
    found = {one.part: one for one in judge_host(host_of(), release=release).findings}
    assert (found["driver"].verdict, "do not give the driver" in found["driver"].advice) == ("warning", True)
    assert "use the container nvcr.io/nvidia/tensorrt-llm/release:1.4.0rc1" in found["TensorRT-LLM"].advice
    old = judge_host(host_of(driver="550.54.15", cuda="12.4"), release=release).findings
    assert "1.4.0rc1 needs a driver with CUDA 13 or newer" in {one.part: one for one in old}["driver"].advice
    assert any(line.startswith("tensorrt: nothing") for line in judge_host(host_of(), release=release).works)


def test_the_command_looks_at_this_host(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "works here:" in text
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "doctor"
    assert {one["part"] for one in found["findings"]} >= {"/dev/shm", "host memory", "tritonserver"}
    assert found["host"]["memory_bytes"] > 0
