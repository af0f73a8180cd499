"""What `--runtime auto` means on hosts that have more or less of TensorRT-LLM."""

from __future__ import annotations

from typing import Any

import pytest

from engines.host import Gpu, Host
from engines.runtime_choice import choose_runtime
from tpforge.errors import EnvironmentUnusable, UsageError

GPU = Gpu(0, "H100", "GPU-0", 80 << 30, 0, 90)
DOCKER = (("docker", "/usr/bin/docker"),)
BUILD = (("trtllm-build", "/usr/bin/trtllm-build"),)


def host(**fields: Any) -> Host:
    return Host(**{"gpus": (GPU, GPU), **fields})


@pytest.mark.parametrize(
    ("fields", "runtime", "release", "where"),
    [
        ({"packages": (("tensorrt_llm", "1.2.1"),), "programs": BUILD}, "tensorrt", "1.2.1", "none"),
        ({"packages": (("tensorrt_llm", "1.2.1"),)}, "pytorch", "1.2.1", "none"),
        ({"packages": (("tensorrt_llm", "1.4.0rc1"),)}, "pytorch", "1.4.0rc1", "none"),
        ({"programs": DOCKER, "has_nvidia_containers": True}, "tensorrt", "1.2.1", "docker"),
        ({"programs": (("podman", "x"),), "has_nvidia_containers": True}, "tensorrt", "1.2.1", "podman"),
    ],
)
def test_it_takes_what_the_release_at_hand_has(
    fields: dict[str, Any], runtime: str, release: str, where: str
) -> None:
    choice = choose_runtime(host(**fields))
    assert (choice.runtime, choice.trtllm, choice.container) == (runtime, release, where)
    assert release in choice.because and "2 NVIDIA GPUs" in choice.because


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"gpus": (), "notes": ("nvidia-smi: not found",)}, "no NVIDIA GPU (nvidia-smi: not found)"),
        ({"gpus": (), "packages": (("tensorrt_llm", "1.2.1"),)}, "this host has no NVIDIA GPU"),
        ({}, "TensorRT-LLM 1.2.1 is not installed, and neither docker nor podman is on PATH"),
        ({"programs": DOCKER}, "NVIDIA's container toolkit is missing"),
    ],
)
def test_without_it_the_reference_runtime_is_chosen_and_says_why(fields: dict[str, Any], reason: str) -> None:
    choice = choose_runtime(host(**fields))
    assert (choice.runtime, choice.trtllm) == ("reference", None)
    assert reason in choice.because
    assert "runtime tensorrt or pytorch prepares an engine" in choice.otherwise


def test_a_docker_that_does_not_answer_is_no_docker() -> None:
    here = host(programs=DOCKER, has_nvidia_containers=True)
    choice = choose_runtime(here, silent={"docker": "no daemon"})
    assert choice.runtime == "reference"
    assert "docker starts no container: no daemon" in choice.because


def test_a_release_that_was_asked_for_is_never_replaced_by_the_reference_runtime() -> None:
    with pytest.raises(EnvironmentUnusable, match=r"trtllm 1\.2\.1: this host has no NVIDIA GPU"):
        choose_runtime(host(gpus=()), trtllm="1.2.1")
    installed = host(packages=(("tensorrt_llm", "1.2.1"),))
    with pytest.raises(EnvironmentUnusable, match=r"1\.4\.0rc1 is not the one installed \(1\.2\.1\)"):
        choose_runtime(installed, trtllm="1.4.0rc1")
    with pytest.raises(UsageError):
        choose_runtime(host(programs=DOCKER, has_nvidia_containers=True), trtllm="no version")


def test_another_release_than_the_installed_one_runs_in_its_container() -> None:
    here = host(packages=(("tensorrt_llm", "1.2.1"),), programs=DOCKER, has_nvidia_containers=True)
    choice = choose_runtime(here, trtllm="1.4.0rc1")
    assert (choice.runtime, choice.trtllm, choice.container) == ("pytorch", "1.4.0rc1", "docker")
