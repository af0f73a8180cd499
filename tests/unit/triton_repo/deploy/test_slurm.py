"""The batch job: what it asks for, what each rank runs, how it ends, by bash with stand-ins for Slurm."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.deployments import deployment_of
from tests.support.patience import PATIENCE_S
from tests.support.ports import free_ports
from tpforge.errors import UsageError
from triton_repo.deploy import files
from triton_repo.deploy.slurm import rank_commands
from triton_repo.deploy.targets import target_files


def write(texts: dict[str, str], folder: Path) -> None:
    for name, text in texts.items():
        (folder / name).write_text(text)


def test_slurm_gives_every_rank_shared_memory_of_its_own_and_the_first_all_models() -> None:
    deployment = deployment_of("llama405b-tensorrt", "slurm")
    first, others = rank_commands(deployment, Path("/r"))  # type: ignore[arg-type]
    assert "--load-model" not in first and "prefix0_" in first
    assert "--load-model=tensorrt_llm" in others and "prefix${SLURM_PROCID}_" in others
    job = target_files("slurm", deployment)["job.sh"]
    assert "#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=8\n#SBATCH --gpus-per-node=8\n" in job
    assert "#SBATCH --requeue" in job and "--mpi=pmix" in job
    assert "#SBATCH --cpus-per-task=4\n#SBATCH --mem=0\n#SBATCH --exclusive\n" in job
    assert job.index("enroot import") < job.index("deadline="), "an import of 30 GB is no slow start"


def test_a_job_asks_for_what_it_uses_and_says_who_pays() -> None:
    given = {"account": "llm", "qos": "high", "partition": "gpu"}
    job = target_files("slurm", deployment_of("llama70b-tensorrt", "slurm", **given))["job.sh"]
    for name, value in given.items():
        assert f"#SBATCH --{name}={value}\n" in job
    assert "--exclusive" not in job, "4 of the node's 8 GPUs are left to others"
    shared = target_files("slurm", deployment_of("smollm2-reference", "slurm"))["job.sh"]
    assert "#SBATCH --cpus-per-task=2\n#SBATCH --mem=3G\n" in shared
    kept = target_files("slurm", deployment_of("smollm2-reference", "slurm", image="/i/it.sqsh"))["job.sh"]
    assert "enroot import" not in kept and "--container-image=/i/it.sqsh \\\n" in kept


@pytest.mark.parametrize("name", ["account", "qos", "partition", "time_limit"])
def test_a_value_cannot_add_a_line_to_the_job(name: str) -> None:
    with pytest.raises(UsageError, match="without blanks"):
        target_files("slurm", deployment_of("llama70b-tensorrt", "slurm", **{name: "a\n#SBATCH --wrap=x"}))


@pytest.mark.parametrize("rank", [0, 3])
def test_the_rank_script_runs_what_its_rank_needs(rank: int, tmp_path: Path) -> None:
    deployment = deployment_of("llama70b-tensorrt", "slurm")
    text = target_files("slurm", deployment)["rank.sh"]
    fake = tmp_path / "tritonserver"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    (tmp_path / "launch.py").write_text(files.launch())
    (tmp_path / "rank.sh").write_text(text.replace("/opt/tritonserver/bin/tritonserver", str(fake)))
    done = subprocess.run(
        ["bash", str(tmp_path / "rank.sh")],
        cwd=tmp_path,
        env={**os.environ, "SLURM_PROCID": str(rank)},
        capture_output=True,
        text=True,
        check=True,
    )
    said = done.stdout.split()
    assert ("--load-model=tensorrt_llm" in said) == (rank > 0)
    assert f"--backend-config=python,shm-region-prefix-name=prefix{rank}_" in said


@pytest.mark.parametrize("case", ["llama70b-pytorch", "llama70b-trtllm-serve"])
def test_ranks_of_the_llm_api_wait_for_the_one_that_answers(case: str, tmp_path: Path) -> None:
    """srun tells all of them at once; their program is the launcher, in which the first one's server runs."""
    files_of_job = target_files("slurm", deployment_of(case, "slurm", grace=int(PATIENCE_S)))
    waits = 'trap "touch told; exit" TERM; touch up; until [ -e done ]; do sleep 0.05; done'
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "trtllm-llmapi-launch").write_text(f"#!/bin/sh\n{waits}\n")
    (tmp_path / "bin" / "trtllm-llmapi-launch").chmod(0o755)
    write(files_of_job, tmp_path)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "SLURM_PROCID": "1"}
    with subprocess.Popen(
        ["bash", "rank.sh"], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    ) as rank:
        try:
            while not (tmp_path / "up").exists():
                assert rank.poll() is None
                time.sleep(0.02)
            rank.terminate()
            assert rank.stderr is not None and "told to end" in rank.stderr.readline()
            (tmp_path / "done").touch()
            assert "nothing is in flight" in rank.stderr.read()
        finally:
            (tmp_path / "done").touch()
    assert rank.returncode == 0 and not (tmp_path / "told").exists()
    assert " --follow trtllm-llmapi-launch " in files_of_job["rank.sh"]


IMPORTS = """case "$*" in *"enroot import"*)
    for word; do case $word in *.sqsh.7) echo "$@" >"$word" ;; esac; done
    exit ;;
esac
"""
"""The first step of a job brings the container."""


@pytest.mark.parametrize(
    ("srun", "ends", "status", "said"),
    [
        ("exit 3", False, 3, ""),
        ("exec sleep 60", True, 143, "requeue 7\n"),
    ],
)
def test_a_job_ends_with_its_ranks_or_goes_back_to_the_queue_and_is_not_called_ready(
    srun: str, ends: bool, status: int, said: str, tmp_path: Path
) -> None:
    deployment = deployment_of("llama70b-tensorrt", "slurm", port_base=free_ports().http)
    write(target_files("slurm", deployment), tmp_path)
    programs = {"srun": f"#!/bin/sh\n{IMPORTS}touch started\n{srun}\n", "scontrol": '#!/bin/sh\necho "$@"\n'}
    for name, text in programs.items():
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    with subprocess.Popen(
        ["bash", "job.sh"],
        cwd=tmp_path,
        env={"PATH": path, "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "7"},
        stdout=subprocess.PIPE,
        text=True,
    ) as job:
        while not (tmp_path / "started").exists():
            time.sleep(0.02)
        if ends:
            job.terminate()
        assert job.communicate(timeout=PATIENCE_S)[0] == said
    assert job.returncode == status
    (image,) = tmp_path.glob("*.sqsh")
    assert "docker://nvcr.io#nvidia/tritonserver:" in image.read_text()
