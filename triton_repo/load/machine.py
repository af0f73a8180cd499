"""The machine that a server runs on, as far as it can be read from this process: facts of run.json.

It measures no load. A fact that cannot be read says why.
"""

from __future__ import annotations

import ctypes
import os
import platform
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tpforge import __version__
from tpforge.measure.runs.run import Fact, unavailable_facts
from triton_repo.load.gpus import NoGpus, open_nvml

_GPU_FACTS = ("gpu", "num_gpus", "driver", "cuda", "topology")
_MACHINE_FACTS = (
    *_GPU_FACTS, "nccl", "container", "cpu", "num_cpus", "memory_bytes", "host_load", "operating_system",
    "python",
)  # fmt: skip


def is_local(host: str) -> bool:
    """Whether a host name or address is this machine's."""
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host.strip("[]"), None)}
    except OSError:
        return False
    own = {address.address.split("%")[0] for of in psutil.net_if_addrs().values() for address in of}
    return bool(found & (own | {"127.0.0.1", "::1", "0.0.0.0"}))


def machine_facts(host: str, *, nvml: Any | None = None) -> dict[str, Fact]:
    """What the server's machine is; of another machine nothing is known here but tpforge's own version."""
    facts = {"tpforge_version": Fact(value=__version__)}
    if not is_local(host):
        return facts | unavailable_facts(_MACHINE_FACTS, f"the server runs on another machine, {host}")
    memory, load = psutil.virtual_memory(), psutil.getloadavg()
    facts |= {
        "cpu": _known(_cpu_name(), "/proc/cpuinfo names none"),
        "num_cpus": Fact(value=len(os.sched_getaffinity(0))),
        "memory_bytes": Fact(value=memory.total),
        "host_load": Fact(value=[round(value, 2) for value in load]),
        "operating_system": Fact(value=f"{_distribution()}, kernel {platform.release()}"),
        "python": Fact(value=sys.version.split()[0]),
        "container": Fact(value=_container()),
    }
    return facts | _gpu_facts(nvml)


def topology(nvml: Any, handles: list[Any]) -> list[list[str]]:
    """How each two GPUs are connected, by `nvidia-smi topo -m`'s letters: NV, PIX, PXB, PHB, NODE, SYS.

    Raises:
        NVMLError: the driver does not tell.
    Source: nvml.h, nvmlGpuTopologyLevel_t
    """
    names = {0: "X", 10: "PIX", 20: "PXB", 30: "PHB", 40: "NODE", 50: "SYS"}

    def link(a: int, b: int) -> str:
        if a == b:
            return "X"
        status = nvml.nvmlDeviceGetP2PStatus(handles[a], handles[b], nvml.NVML_P2P_CAPS_INDEX_NVLINK)
        if status == nvml.NVML_P2P_STATUS_OK:
            return "NV"
        level = nvml.nvmlDeviceGetTopologyCommonAncestor(handles[a], handles[b])
        return names.get(level, str(level))

    return [[link(a, b) for b in range(len(handles))] for a in range(len(handles))]


def _gpu_facts(nvml: Any | None) -> dict[str, Fact]:
    try:
        found, handles = open_nvml(nvml)
    except NoGpus as reason:
        return unavailable_facts((*_GPU_FACTS, "nccl"), str(reason))
    facts = {
        "gpu": _read(found, lambda: _text(found.nvmlDeviceGetName(handles[0]))),
        "num_gpus": Fact(value=len(handles)),
        "driver": _read(found, lambda: _text(found.nvmlSystemGetDriverVersion())),
        "cuda": _read(found, lambda: _cuda(found.nvmlSystemGetCudaDriverVersion())),
        "topology": _read(found, lambda: topology(found, handles)),
        "nccl": _nccl(),
    }
    found.nvmlShutdown()
    return facts


def _read(nvml: Any, reading: Callable[[], Any]) -> Fact:
    try:
        return Fact(value=reading())
    except nvml.NVMLError as error:
        return Fact(unavailable_because=f"NVML: {error}")


def _cuda(version: int) -> str:
    """12040 is CUDA 12.4: the newest that the driver can run."""
    return f"{version // 1000}.{version % 1000 // 10} (of the driver)"


def _nccl() -> Fact:
    try:
        library = ctypes.CDLL("libnccl.so.2")
    except OSError as error:
        return Fact(unavailable_because=f"libnccl.so.2 is not found by this process: {error}")
    version = ctypes.c_int()
    library.ncclGetVersion(ctypes.byref(version))
    number = version.value
    return Fact(value=f"{number // 10000}.{number % 10000 // 100}.{number % 100}")


def _container() -> str:
    if release := os.environ.get("NVIDIA_TRITON_SERVER_VERSION"):
        return f"tritonserver {release}"
    inside = Path("/.dockerenv").exists() or Path("/run/.containerenv").exists()
    return "a container that does not tell its image" if inside else "none"


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return platform.processor()
    lines = path.read_text("utf-8", errors="replace").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return platform.system()


def _known(value: str, otherwise: str) -> Fact:
    return Fact(value=value) if value else Fact(unavailable_because=otherwise)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
