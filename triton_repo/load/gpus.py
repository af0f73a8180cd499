"""GPUs by NVML (nvidia-ml-py): what each is, and its memory, load, power, clocks and traffic now.

Each reading that a GPU refuses is left out and named with the reason. Nothing is set or reset.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tpforge.extras import install_command
from tpforge.measure.runs.run import GpuTelemetry
from triton_repo.load.series import gauge, rates

_UNEVEN_UTILIZATION = 15.0
_UNEVEN_MEMORY = 0.10
_IDLE_UTILIZATION = 5.0

_LINKS = (
    ("nvlink_tx", "NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX"),
    ("nvlink_rx", "NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX"),
)
"""Counters in KiB, summed over all links (scope id UINT_MAX). Source: nvml.h, field value enums."""

_UNITS = {
    "memory_used": "B",
    "utilization": "%",
    "memory_utilization": "%",
    "power": "W",
    "sm_clock": "MHz",
    "temperature": "C",
    "pcie_tx": "B/s",
    "pcie_rx": "B/s",
    "nvlink_tx": "B/s",
    "nvlink_rx": "B/s",
}


class NoGpus(Exception):
    """Why there is nothing to read."""


@dataclass
class GpuSeries:
    """The readings of one GPU; `counters` are totals with the stamp of each reading."""

    index: int
    name: str
    uuid: str
    values: dict[str, list[float]] = field(default_factory=dict)
    counters: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)

    def telemetry(self) -> GpuTelemetry:
        """The record of what was read."""
        series = {name: gauge(values, unit=_UNITS[name]) for name, values in self.values.items() if values}
        for name, readings in self.counters.items():
            if speeds := rates([at for at, _ in readings], [total for _, total in readings]):
                series[name] = gauge(speeds, unit=_UNITS[name])
        return GpuTelemetry(
            index=self.index, name=self.name, uuid=self.uuid, series=series, unavailable=self.unavailable
        )


def open_nvml(nvml: Any | None = None) -> tuple[Any, list[Any]]:
    """NVML, opened, and a handle for each GPU; the caller shuts it down.

    Raises:
        NoGpus: nvidia-ml-py is not installed, there is no driver, or no GPU.
    """
    module = nvml if nvml is not None else _import_nvml()
    try:
        module.nvmlInit()
        count = module.nvmlDeviceGetCount()
        handles = [module.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
    except module.NVMLError as error:
        raise NoGpus(f"NVML: {error}") from None
    if not handles:
        raise NoGpus("NVML: the driver shows no GPU")
    return module, handles


class Gpus:
    """All GPUs of this machine, as NVML shows them.

    Raises:
        NoGpus: nvidia-ml-py is not installed, there is no driver, or no GPU.
    """

    def __init__(self, nvml: Any | None = None) -> None:
        self._nvml, self._handles = open_nvml(nvml)

    def begin(self) -> list[GpuSeries]:
        """An empty series for each GPU."""
        nvml = self._nvml
        return [
            GpuSeries(index, _text(nvml.nvmlDeviceGetName(handle)), _text(nvml.nvmlDeviceGetUUID(handle)))
            for index, handle in enumerate(self._handles)
        ]

    def read(self, series: Sequence[GpuSeries]) -> None:
        """Add one reading of everything to every series."""
        for handle, gpu in zip(self._handles, series, strict=True):
            for name, reading in self._readings(handle).items():
                if (value := self._try(gpu, name, reading)) is not None:
                    gpu.values.setdefault(name, []).append(value)
            for name, field_name in _LINKS:
                total = self._try(gpu, name, partial(self._link, handle, field_name))
                if total is not None:
                    gpu.counters.setdefault(name, []).append((time.monotonic(), total))

    def close(self) -> None:
        """Leave NVML."""
        self._nvml.nvmlShutdown()

    def _readings(self, handle: Any) -> dict[str, Callable[[], float]]:
        nvml = self._nvml
        return {
            "memory_used": lambda: float(nvml.nvmlDeviceGetMemoryInfo(handle).used),
            "utilization": lambda: float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu),
            "memory_utilization": lambda: float(nvml.nvmlDeviceGetUtilizationRates(handle).memory),
            "power": lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
            "sm_clock": lambda: float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            "temperature": lambda: float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            # KB/s over the last 20 ms. Source: nvml.h, nvmlDeviceGetPcieThroughput
            "pcie_tx": lambda: 1e3 * nvml.nvmlDeviceGetPcieThroughput(handle, nvml.NVML_PCIE_UTIL_TX_BYTES),
            "pcie_rx": lambda: 1e3 * nvml.nvmlDeviceGetPcieThroughput(handle, nvml.NVML_PCIE_UTIL_RX_BYTES),
        }

    def _link(self, handle: Any, field_name: str) -> float:
        nvml = self._nvml
        found = nvml.nvmlDeviceGetFieldValues(handle, [(getattr(nvml, field_name), 0xFFFFFFFF)])[0]
        if found.nvmlReturn != nvml.NVML_SUCCESS:
            raise nvml.NVMLError(found.nvmlReturn)
        return 1024.0 * float(found.value.ullVal)

    def _try(self, gpu: GpuSeries, name: str, reading: Callable[[], float]) -> float | None:
        if name in gpu.unavailable:
            return None
        try:
            return reading()
        except self._nvml.NVMLError as error:
            gpu.unavailable[name] = str(error)
            return None


def uneven_gpus(gpus: Sequence[GpuTelemetry]) -> tuple[str, ...]:
    """What differs between the GPUs that work: ranks of equal size should show equal load and memory."""
    notes = []
    busy = [
        gpu
        for gpu in gpus
        if "utilization" in gpu.series and gpu.series["utilization"].avg >= _IDLE_UTILIZATION
    ]
    if len(busy) < 2:
        return ()
    loads = {gpu.index: gpu.series["utilization"].avg for gpu in busy}
    if max(loads.values()) - min(loads.values()) > _UNEVEN_UTILIZATION:
        notes.append(
            "GPUs are unevenly busy: " + ", ".join(f"{i}: {load:.0f} %" for i, load in loads.items())
        )
    used = {gpu.index: gpu.series["memory_used"].max for gpu in busy if "memory_used" in gpu.series}
    if used and max(used.values()) - min(used.values()) > _UNEVEN_MEMORY * max(used.values()):
        shown = ", ".join(f"{i}: {memory / 2**30:.1f} GiB" for i, memory in used.items())
        notes.append(f"GPUs hold unequal memory: {shown}")
    return tuple(notes)


def _import_nvml() -> Any:
    try:
        import pynvml
    except ImportError:
        raise NoGpus(f"nvidia-ml-py is not installed: {install_command('gpu')}") from None
    return pynvml


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
