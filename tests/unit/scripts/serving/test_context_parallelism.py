"""Context parallelism has ranks of its own: every command that counts GPUs counts them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from scripts.main import main
from tests.golden.test_runtimes import said
from tests.golden.test_trtllm_serve import Case, engine_of

HELIX = (
    "max_num_tokens=16384",
    "context_parallel_size=2",
    "cp_config.cp_type=HELIX",
    "cp_config.tokens_per_block=32",
)
CASE = Case("helix-tp4-cp2", "deepseek-ai/DeepSeek-V3", tp=4, llm=HELIX)
"""DeepSeek-V3 over 4 ranks, twice: upstream's page on Helix names this model."""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("helix") / "work"
    assert "FP8_BLOCK_SCALES, 8 ranks" in engine_of(CASE, folder)
    (folder / "engine" / "model" / "config.json").write_text((folder / "model" / "config.json").read_text())
    return folder / "engine"


def test_the_server_takes_a_gpu_for_each_of_the_eight_ranks(engine: Path) -> None:
    assert "docker, GPUs 0, 1, 2, 3, 4, 5, 6, 7" in said(
        "serve", str(engine), "--container", "docker", "--dry-run"
    )


def test_disaggregated_servers_of_it_take_eight_gpus_each(engine: Path, tmp_path: Path) -> None:
    words = ["--out", str(tmp_path / "apart"), "--json"]
    assert json.loads(said("disaggregate", str(engine), *words))["num_gpus"] == 16
    settings = yaml.safe_load((tmp_path / "apart" / "generation.yaml").read_text())
    assert settings["context_parallel_size"] * settings["tensor_parallel_size"] == 8


def test_a_deployment_of_it_asks_for_eight_gpus(engine: Path, tmp_path: Path) -> None:
    words = ["deploy", str(engine), "--image", "registry.example/trtllm:1", "--gpus-per-node", "4"]
    said(*words, "--target", "slurm", "--out", str(tmp_path / "slurm"))
    job = (tmp_path / "slurm" / "job.sh").read_text()
    assert "#SBATCH --nodes=2" in job
    assert "#SBATCH --ntasks-per-node=4" in job


def test_a_release_without_a_triton_container_is_served_by_trtllm_serve(engine: Path, tmp_path: Path) -> None:
    said("deploy", str(engine), "--target", "compose", "--out", str(tmp_path / "out"))
    services = yaml.safe_load((tmp_path / "out" / "compose.yaml").read_text())["services"]
    assert services["trtllm-serve"]["image"] == "nvcr.io/nvidia/tensorrt-llm/release:1.4.0rc1"
    device = services["trtllm-serve"]["deploy"]["resources"]["reservations"]["devices"][0]
    assert device["count"] == 8


def test_what_a_refused_target_names_takes_the_engine(
    engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pulled = ["--engine-url", "s3://engines/helix", "--digest", "ab" * 32, "--gpus-per-node", "4"]
    for target in ("compose", "kubernetes", "helm"):
        words = ["--target", target, *pulled, "--out", str(tmp_path / target)]
        assert main(["deploy", str(engine), *words]) == 2
        refused = capsys.readouterr().err
        assert "use --target multi-node or slurm" in refused, target
    for target in ("multi-node", "slurm"):
        words = ["--target", target, *pulled, "--out", str(tmp_path / target)]
        assert main(["deploy", str(engine), *words]) == 0
    words = ["--image", "registry.example/dynamo:1", "--out", str(tmp_path / "graph"), *pulled]
    assert main(["deploy", str(engine), "--target", "dynamo", *words]) == 0
