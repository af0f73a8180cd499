"""A host with GPUs as tpforge sees it, held to what torch and nvidia-smi say of it."""

from __future__ import annotations

import json
import subprocess
import time

import pytest
import torch

from engines.host import find_host
from scripts.main import main
from tpforge.measure.runs.run import SeriesSummary
from triton_repo.load.gpus import Gpus
from triton_repo.load.machine import machine_facts
from triton_repo.load.telemetry import Recorder


def test_the_host_has_the_gpus_that_torch_sees() -> None:
    host = find_host()
    assert host.notes == ()
    assert len(host.gpus) == torch.cuda.device_count()
    for gpu in host.gpus:
        properties = torch.cuda.get_device_properties(gpu.index)
        assert gpu.name == properties.name
        assert gpu.sm == 10 * properties.major + properties.minor
        assert gpu.memory_bytes == pytest.approx(properties.total_memory, rel=0.03)
        assert 0 <= gpu.used_bytes < gpu.memory_bytes
    assert host.driver and host.cuda and int(host.cuda.split(".")[0]) >= 11
    assert (host.topology != "") == (len(host.gpus) > 1)


def test_doctor_names_every_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--json"])
    said = capsys.readouterr().out
    assert json.loads(said)["schema_version"] == 1
    assert torch.cuda.get_device_name(0) in said


def test_telemetry_sees_memory_and_work_of_the_gpu() -> None:
    recorder = Recorder(metrics_url=None, period_s=0.1)
    recorder.start()
    left = torch.zeros(2 << 28, dtype=torch.float32, device="cuda")  # 2 GiB
    matrix = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    ending = time.monotonic() + 3
    while time.monotonic() < ending:
        for _ in range(20):
            matrix @ matrix
        torch.cuda.synchronize()
    telemetry = recorder.stop()
    del left
    assert "gpu" not in telemetry.unavailable
    series: dict[str, SeriesSummary] = telemetry.gpus[0].series
    assert series["memory_used"].max - series["memory_used"].first >= 2 * 2**30
    assert series["utilization"].max > 50
    assert {"power", "sm_clock", "temperature"} <= set(series) | set(telemetry.gpus[0].unavailable)


def test_facts_of_a_run_name_gpu_driver_and_cuda() -> None:
    facts = machine_facts("localhost")
    asked = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    name, driver = (
        subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()[0].split(", ")
    )
    assert facts["driver"].value == driver
    assert name in json.dumps(facts["gpu"].value)
    assert facts["num_gpus"].value == torch.cuda.device_count()
    assert facts["cuda"].value is not None


def test_nvml_is_left_as_it_was_found() -> None:
    for _ in range(3):
        gpus = Gpus()
        series = gpus.begin()
        gpus.read(series)
        gpus.close()
        assert series[0].values["memory_used"][0] > 0
