"""A plan of this host's GPUs, and estimates scaled by a run of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from builders.blueprint import find_blueprint
from engines.host import Host, parse_gpus
from engines.host_cluster import host_cluster
from scripts.main import main
from tests.support.runs import level_of, run_of
from tpforge.errors import EnvironmentUnusable, InputRefused
from tpforge.measure.run import Run
from tpforge.plan.calibration import calibration
from tpforge.plan.hardware import find_gpu, gpus, make_cluster
from tpforge.plan.options import Ask
from tpforge.plan.scaled_by_run import calibrate
from tpforge.plan.throughput import Load
from tpforge.topology import links_of, parse_topology

ENGINE = {
    "model": "meta-llama/Llama-3.1-8B",
    "runtime": "tensorrt",
    "precision": "bfloat16",
    "quantization": "none",
    "tp": 1,
    "pp": 1,
}


def host(name: str, count: int, link: str) -> Host:
    text = "\n".join(f"{index}, {name}, GPU-{index}, 81559, 0, 9.0, 570.1" for index in range(count))
    header = "\tGPU0\tGPU1\n"
    matrix = header + f"GPU0\t X \t{link}\nGPU1\t{link}\t X \n"
    return Host(gpus=parse_gpus(text)[0], links=links_of(parse_topology(matrix)) if count == 2 else ())


def run(**engine: Any) -> Run:
    level, _ = level_of([[0.1, 0.1, 0.1, 0.1]], concurrency=4)
    facts: Mapping[str, Any] = {**ENGINE, **engine}
    return run_of("mine", [level], engine=facts, environment={"gpu": "NVIDIA H100 80GB HBM3"})


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


def test_a_run_of_ones_own_scales_all_estimates_to_what_it_measured() -> None:
    blueprint, cluster = find_blueprint("llama-3.1-8b"), make_cluster(find_gpu("h100"), num_gpus=8)
    ask = Ask(Load(1000, 1000), 2000)
    once, said = calibrate(run(), blueprint, cluster, ask, calibration=calibration())
    measured = run().levels[0].metrics["output_token_throughput"].avg
    assert f"{measured:.0f} tokens/s measured" in said
    again, _ = calibrate(run(), blueprint, cluster, ask, calibration=once)
    assert again.scale == pytest.approx(once.scale)
    assert once.scale < 1


def test_a_run_of_something_else_cannot_scale_a_plan() -> None:
    blueprint, ask = find_blueprint("llama-3.1-8b"), Ask(Load(1000, 1000), 2000)
    other = run(runtime="reference", model="SmolLM2")
    with pytest.raises(InputRefused) as caught:
        calibrate(
            other, blueprint, make_cluster(find_gpu("a100"), num_gpus=1), ask, calibration=calibration()
        )
    text = str(caught.value)
    assert "runtime is reference" in text
    assert "model is SmolLM2" in text
    assert "the plan is of A100" in text
