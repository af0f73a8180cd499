"""What is read beside a load: GPUs by NVML, Triton's metrics, this host; and what is missing."""
# ruff: noqa: N802

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.patience import wait_until
from tpforge.measure.runs.run import GpuTelemetry
from triton_repo.load.gpus import Gpus, NoGpus, uneven_gpus
from triton_repo.load.machine import is_local, machine_facts
from triton_repo.load.prometheus import summarize_metrics
from triton_repo.load.series import counter, gauge, rates
from triton_repo.load.telemetry import Recorder


class FakeNvml:
    """The functions of nvidia-ml-py that are used, over GPUs whose numbers are given."""

    class NVMLError(Exception):
        pass

    NVML_SUCCESS = 0
    NVML_CLOCK_SM, NVML_TEMPERATURE_GPU = 1, 0
    NVML_PCIE_UTIL_TX_BYTES, NVML_PCIE_UTIL_RX_BYTES = 0, 1
    NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX = 138, 139
    NVML_P2P_CAPS_INDEX_NVLINK, NVML_P2P_STATUS_OK = 2, 0

    def __init__(self, loads: list[int], memory: list[int], *, nvlink: bool = True) -> None:
        self.loads, self.memory, self.nvlink, self.kib = loads, memory, nvlink, 0

    def nvmlInit(self) -> None: ...

    def nvmlShutdown(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return len(self.loads)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, _handle: int) -> bytes:
        return b"NVIDIA H100 80GB HBM3"

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return f"GPU-{handle}"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return SimpleNamespace(used=self.memory[handle])

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        return SimpleNamespace(gpu=self.loads[handle], memory=7)

    def nvmlDeviceGetPowerUsage(self, _handle: int) -> int:
        return 350_000

    def nvmlDeviceGetClockInfo(self, _handle: int, _kind: int) -> int:
        return 1980

    def nvmlDeviceGetTemperature(self, _handle: int, _sensor: int) -> int:
        raise self.NVMLError("Not Supported")

    def nvmlDeviceGetPcieThroughput(self, _handle: int, counter: int) -> int:
        return 20 + counter

    def nvmlDeviceGetFieldValues(self, _handle: int, fields: list[tuple[int, int]]) -> list[Any]:
        if not self.nvlink:
            raise self.NVMLError("Not Supported")
        assert fields[0][1] == 2**32 - 1, "the sum over all links"
        self.kib += 1000
        return [SimpleNamespace(nvmlReturn=0, value=SimpleNamespace(ullVal=self.kib))]

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.65"

    def nvmlSystemGetCudaDriverVersion(self) -> int:
        return 12040

    def nvmlDeviceGetP2PStatus(self, a: int, b: int, _capability: int) -> int:
        return 0 if self.nvlink and {a, b} == {0, 1} else 3

    def nvmlDeviceGetTopologyCommonAncestor(self, a: int, b: int) -> int:
        return 50 if {a, b} & {3} else 20


def read_twice(nvml: FakeNvml) -> list[GpuTelemetry]:
    """Two readings, two seconds apart."""
    clock = SimpleNamespace(monotonic=lambda: 10.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("triton_repo.load.gpus.time", clock)
        gpus = Gpus(nvml)
        series = gpus.begin()
        gpus.read(series)
        clock.monotonic = lambda: 12.0
        gpus.read(series)
        return [gpu.telemetry() for gpu in series]


def test_gpu_numbers_come_in_their_units_and_refusals_are_named() -> None:
    first, second = read_twice(FakeNvml([90, 88], [70 * 2**30, 71 * 2**30]))
    assert first.name == "NVIDIA H100 80GB HBM3"
    assert (second.index, second.uuid) == (1, "GPU-1")
    shown = {
        name: (summary.unit, summary.avg) for name, summary in first.series.items() if "nvlink" not in name
    }
    assert shown == {
        "memory_used": ("B", 70 * 2**30),
        "utilization": ("%", 90),
        "memory_utilization": ("%", 7),
        "power": ("W", 350),
        "sm_clock": ("MHz", 1980),
        "pcie_tx": ("B/s", 20_000),
        "pcie_rx": ("B/s", 21_000),
    }
    assert first.unavailable == {"temperature": "Not Supported"}
    link = first.series["nvlink_tx"]
    # The counter of every GPU and direction goes up by 1000 KiB a reading here: 4 readings between two.
    assert (link.unit, link.count, link.avg) == ("B/s", 1, 4 * 1000 * 1024 / 2)


def test_uneven_gpus_are_pointed_out_and_even_ones_are_not() -> None:
    assert uneven_gpus(read_twice(FakeNvml([90, 88], [70 * 2**30, 71 * 2**30]))) == ()
    assert uneven_gpus(read_twice(FakeNvml([90, 0], [70 * 2**30, 2**30]))) == (), "the other one is not used"
    load, memory = uneven_gpus(read_twice(FakeNvml([95, 40], [70 * 2**30, 40 * 2**30], nvlink=False)))
    assert load == "GPUs are unevenly busy: 0: 95 %, 1: 40 %"
    assert memory == "GPUs hold unequal memory: 0: 70.0 GiB, 1: 40.0 GiB"


def test_machine_with_gpus_tells_them_and_their_links() -> None:
    facts = machine_facts("localhost", nvml=FakeNvml([0] * 4, [0] * 4))
    assert facts["num_gpus"].value == 4
    assert (facts["driver"].value, facts["cuda"].value) == ("580.65", "12.4 (of the driver)")
    assert facts["topology"].value == [
        ["X", "NV", "PXB", "SYS"],
        ["NV", "X", "PXB", "SYS"],
        ["PXB", "PXB", "X", "SYS"],
        ["SYS", "SYS", "SYS", "X"],
    ]


def test_machine_without_gpus_says_why_and_keeps_the_rest() -> None:
    facts = machine_facts("localhost", nvml=FakeNvml([], []))
    for name in ("gpu", "num_gpus", "driver", "cuda", "nccl", "topology"):
        assert facts[name].unavailable_because == "NVML: the driver shows no GPU"
    assert isinstance(facts["num_cpus"].value, int)
    assert isinstance(facts["memory_bytes"].value, int) and facts["memory_bytes"].value > 2**28
    with pytest.raises(NoGpus, match="shows no GPU"):
        Gpus(FakeNvml([], []))


def test_another_machine_is_not_described_by_this_one() -> None:
    facts = machine_facts("192.0.2.7")
    assert set(facts) == set(machine_facts("localhost"))
    assert facts["cpu"].unavailable_because == "the server runs on another machine, 192.0.2.7"
    assert [is_local(host) for host in ("localhost", "127.0.0.1", "192.0.2.7", "[::1]")] == [
        True, True, False, True,
    ]  # fmt: skip


FIRST = """# HELP nv_inference_count x
# TYPE nv_inference_count counter
nv_inference_count{model="ensemble",version="1"} 10
nv_inference_count{model="idle",version="1"} 3
# TYPE nv_trt_llm_request_metrics gauge
nv_trt_llm_request_metrics{request_type="active"} 2
# TYPE nv_llm_output_token_len histogram
nv_llm_output_token_len_bucket{le="10"} 5
nv_llm_output_token_len_sum 100
# TYPE nv_cpu_memory_used_bytes gauge
nv_cpu_memory_used_bytes 4096
# TYPE nv_inference_request_summary_us summary
nv_inference_request_summary_us{quantile="0.5"} Nan
python_gc_objects 7
"""


def test_counters_are_increases_gauges_are_values_and_idle_ones_are_left_out() -> None:
    second = FIRST.replace('ensemble",version="1"} 10', 'ensemble",version="1"} 25')
    second = second.replace('"active"} 2', '"active"} 6').replace("_sum 100", "_sum 160")
    found = summarize_metrics([FIRST, second], source="s")
    assert {key: (summary.unit, summary.avg) for key, summary in found.items()} == {
        'nv_inference_count{model="ensemble",version="1"}': ("increase", 15),
        'nv_trt_llm_request_metrics{request_type="active"}': ("count", 4),
        "nv_llm_output_token_len_sum": ("increase", 60),
        "nv_cpu_memory_used_bytes": ("B", 4096),
    }


def test_labels_may_hold_braces_quotes_and_line_breaks() -> None:
    keys = [
        'nv_inference_count{model="a}b",version="1"}',
        'nv_inference_count{model="a\\"}\\\\ \\n",version="1"}',
    ]
    head = "# TYPE nv_inference_count counter"
    texts = [f"{head}\n{keys[0]} {first}\n{keys[1]} {second}\n" for first, second in ((1, 20), (4, 29))]
    found = summarize_metrics(texts, source="s")
    assert {key: (summary.unit, summary.last) for key, summary in found.items()} == {
        keys[0]: ("increase", 3),
        keys[1]: ("increase", 9),
    }


def test_a_quantile_of_a_summary_is_no_counter() -> None:
    text = '# TYPE nv_x_us summary\nnv_x_us{{quantile="0.5"}} {}\nnv_x_us_count {}\n'
    found = summarize_metrics([text.format(70, 1), text.format(50, 4)], source="s")
    assert {key: (summary.unit, summary.avg) for key, summary in found.items()} == {
        'nv_x_us{quantile="0.5"}': ("us", 60),
        "nv_x_us_count": ("increase", 3),
    }


def test_an_endpoint_that_answers_something_else_is_named_and_the_load_still_counts() -> None:
    with metrics_server("<html>not found</html>\n") as url:
        recorder = Recorder(metrics_url=url, is_local=False, period_s=10)
        recorder.start()
        telemetry = recorder.stop()
    assert telemetry.server == {}
    assert telemetry.unavailable["server"].startswith(f"{url}: its answer is not Prometheus' text format")


def test_counter_that_starts_again_goes_on_counting() -> None:
    assert counter([10, 14, 3, 5]).last == 4 + 3 + 2
    assert gauge([1, 5, 3], unit="x").model_dump(exclude={"unit", "count"}) == {
        "avg": 3, "min": 1, "max": 5, "first": 1, "last": 3,
    }  # fmt: skip
    assert rates([0.0, 0.5, 0.5, 2.0], [0, 100, 100, 400]) == [200, 200]


@contextmanager
def metrics_server(text: str) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_arguments: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/metrics"
        server.shutdown()
        thread.join()


def test_recorder_reads_metrics_and_host_until_it_is_stopped() -> None:
    with metrics_server(FIRST) as url:
        recorder = Recorder(metrics_url=url, period_s=0.05)
        recorder._process = SimpleNamespace(cpu_percent=lambda: 37.5)  # type: ignore[assignment]
        recorder.start()
        wait_until(lambda: len(recorder._readings.metrics) >= 4, "readings")
        telemetry = recorder.stop()
        recorder._period_s = 600.0
        recorder.start()
        again = recorder.stop()
    assert telemetry.server["nv_cpu_memory_used_bytes"].count >= 5
    assert again.server["nv_cpu_memory_used_bytes"].count == 2, "a level starts anew"
    assert set(telemetry.host) == {"cpu", "memory_used", "load_average", "client_cpu"}
    assert telemetry.host["client_cpu"].max == 37.5
    assert "gpu" in telemetry.unavailable or telemetry.gpus


def test_recorder_names_what_it_cannot_read() -> None:
    recorder = Recorder(metrics_url="http://127.0.0.1:1/metrics", is_local=False, period_s=10)
    recorder.start()
    telemetry = recorder.stop()
    assert telemetry.unavailable["gpu"] == "the server is on another machine"
    assert "127.0.0.1:1" in telemetry.unavailable["server"]
    assert telemetry.unavailable["host"].startswith("the server is on another machine")
    assert telemetry.server == {} and set(telemetry.host) == {"client_cpu"}
