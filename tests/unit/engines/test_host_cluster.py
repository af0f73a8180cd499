"""A plan of this host's GPUs."""

from __future__ import annotations

import pytest

from engines.host import Host, parse_gpus
from engines.host_cluster import host_cluster
from scripts.main import main
from tpforge.errors import EnvironmentUnusable, InputRefused
from tpforge.plan.hardware.gpus import gpus
from tpforge.topology import links_of, parse_topology


def host(name: str, count: int, link: str) -> Host:
    text = "\n".join(f"{index}, {name}, GPU-{index}, 81559, 0, 9.0, 570.1" for index in range(count))
    header = "\tGPU0\tGPU1\n"
    matrix = header + f"GPU0\t X \t{link}\nGPU1\t{link}\t X \n"
    return Host(gpus=parse_gpus(text)[0], links=links_of(parse_topology(matrix)) if count == 2 else ())


def test_the_hosts_gpus_are_a_cluster_with_its_link() -> None:
    found = host_cluster(host("NVIDIA H100 80GB HBM3", 2, "NV18"))
    assert (found.gpu.name, found.num_gpus, found.link) == ("h100-sxm", 2, "nvlink")
    assert host_cluster(host("NVIDIA H100 80GB HBM3", 2, "SYS")).link == "pcie"
    assert host_cluster(host("NVIDIA A100 80GB PCIe", 2, "NV12")).link == "nvlink"


def test_names_of_the_driver_are_unique() -> None:
    names = [gpu.driver_name for gpu in gpus() if gpu.driver_name]
    assert len(set(names)) == len(names)


def test_a_host_without_gpus_or_with_unknown_ones_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EnvironmentUnusable, match="needs GPUs of one kind: no driver"):
        host_cluster(Host(notes=("no driver",)))
    with pytest.raises(InputRefused, match="NVIDIA X1 is not in the table"):
        host_cluster(host("NVIDIA X1", 1, ""))
    monkeypatch.setenv("PATH", "")
    assert main(["plan", "llama-3.1-8b", "--gpu", "host"]) == 3
