"""How many CPUs may be used: affinity, and quotas of control groups of both versions."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from engines.reference import processors as runtime
from tpforge import processors

Count = Callable[..., int]


@pytest.fixture(params=[processors.usable_processors, runtime.usable_processors], ids=["core", "runtime"])
def count(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Count:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
    found: Count = request.param
    return found


def group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_without_a_quota_the_affinity_counts(count: Count, tmp_path: Path) -> None:
    (tmp_path / "own").write_text("0::/\n")
    group(tmp_path / "groups", cpu__max="max 100000\n")
    assert count(own=tmp_path / "own", root=tmp_path / "groups") == 8
    assert count(own=tmp_path / "none", root=tmp_path / "groups") == 8


@pytest.mark.parametrize(("limit", "cpus"), [(200_000, 2), (250_000, 3), (50_000, 1), (1_600_000, 8)])
def test_the_least_quota_above_a_group_of_version_2_counts(
    count: Count, tmp_path: Path, limit: int, cpus: int
) -> None:
    (tmp_path / "own").write_text("0::/pod/container\n")
    group(tmp_path / "groups" / "pod", cpu__max=f"{limit} 100000\n")
    group(tmp_path / "groups" / "pod" / "container", cpu__max="max 100000\n")
    assert count(own=tmp_path / "own", root=tmp_path / "groups") == cpus


def test_in_a_container_the_mount_is_the_groups_root(count: Count, tmp_path: Path) -> None:
    (tmp_path / "own").write_text("0::/system.slice/docker-abc.scope\n")
    group(tmp_path / "groups", cpu__max="300000 100000\n")
    assert count(own=tmp_path / "own", root=tmp_path / "groups") == 3


def test_a_quota_of_version_1_counts(count: Count, tmp_path: Path) -> None:
    (tmp_path / "own").write_text("5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n")
    group(tmp_path / "groups" / "cpu", cpu__cfs_quota_us="150000", cpu__cfs_period_us="100000")
    group(tmp_path / "groups" / "cpu" / "docker" / "abc", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    assert count(own=tmp_path / "own", root=tmp_path / "groups") == 2


def test_the_affinity_of_this_process_counts() -> None:
    assert 1 <= processors.usable_processors() <= len(os.sched_getaffinity(0))
    assert runtime.usable_processors() == processors.usable_processors()
