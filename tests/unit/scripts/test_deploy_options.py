"""What `tpforge deploy` is told wrongly is refused by the option's name, in words, before it writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.cli.options.targets import targets_of
from scripts.commands.serving.deploy import TARGET_NAMES, command
from scripts.main import main
from tests.support.stores import write_engine
from triton_repo.deploy.options import DeployOptions

CLUSTER = ["--target", "kubernetes", "--engine-url", "s3://a/b", "--any-digest"]


def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    engine = write_engine(tmp_path / "tiny" / "engine")
    assert main(["deploy", str(engine), *words]) == 2
    assert not list((tmp_path / "tiny").glob("deploy*"))
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--toleration", "a b"], "--toleration a b: expected KEY[=VALUE][:EFFECT]"),
        (["--allow-from", "10.0.0.0/99"], "--allow-from 10.0.0.0/99: '10.0.0.0/99' does not appear to be"),
        (["--gateway", "a/b/c"], "--gateway a/b/c: expected [NAMESPACE/]NAME"),
        (["--namespace", "My NS"], "--namespace My NS: expected a namespace"),
        (["--gpu-product", "NVIDIA H100"], "--gpu-product NVIDIA H100: expected a label's value"),
        (["--image", "a b"], "--image a b: expected a name without blanks"),
        (["--pull-secret", "A_b"], "--pull-secret A_b: expected a name of Kubernetes"),
        (["--spread", "-x"], "--spread -x: expected a label's name"),
        (["--env", "1X=2"], "--env 1X: expected a variable's name"),
        (["--replicas", "5", "--max-replicas", "2"], "--max-replicas 2: is less than --replicas 5"),
    ],
)
def test_a_value_is_refused_by_its_options_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert f"error: {said}" in refused(tmp_path, capsys, *CLUSTER, *words)


@pytest.mark.parametrize("time", ["30", "30:00", "24:00:00", "7-0", "7-12:30:00", "UNLIMITED"])
def test_times_of_sbatch_are_taken_and_others_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], time: str
) -> None:
    options = DeployOptions(time_limit=time)
    assert options.time_limit == time
    slurm = ["--target", "slurm", "--time-limit", "soon"]
    assert "--time-limit soon: expected MINUTES" in refused(tmp_path, capsys, *slurm)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--target", "compose", "--partition", "x"], "--partition: is for slurm, and changes nothing for"),
        (["--target", "slurm", "--namespace", "x"], "--namespace: is for kubernetes and helm and multi-node"),
        (["--target", "compose", "--storage-uri", "s3://a"], "--storage-uri: is for kserve"),
        (["--target", "helm", "--rdma-count", "1"], "--rdma-count: is for multi-node"),
    ],
)
def test_an_option_of_another_target_is_refused_and_not_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert said in refused(tmp_path, capsys, *words)


@pytest.mark.parametrize("url", ["/tmp/x", "file:///tmp/x", "ftp://h/x"])
def test_a_place_that_containers_cannot_pull_from_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], url: str
) -> None:
    words = ["--target", "kubernetes", "--engine-url", url, "--any-digest"]
    assert "cannot be pulled by containers; expected one of s3://" in refused(tmp_path, capsys, *words)


def test_the_table_names_options_and_targets_that_there_are() -> None:
    names = {param.name for param in command.params}
    for name, targets in targets_of().items():
        assert name in names
        assert set(targets) < set(TARGET_NAMES)
