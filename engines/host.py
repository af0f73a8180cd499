"""This host as a place to build and serve on: GPUs, driver, links between them, what is installed.

It asks the driver through nvidia-smi, which is NVML's own program and comes with every driver, and it looks
at files. It loads nothing and judges nothing: `host_verdicts` and `runtime` do.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tpforge.topology import links_of, parse_topology

_GPU_FIELDS = ("index", "name", "uuid", "memory.total", "memory.used", "compute_cap", "driver_version")
_MIB = 1 << 20
_TIMEOUT_S = 30


@dataclass(frozen=True)
class Gpu:
    """One GPU; `sm` is its compute capability as upstream writes it, 90 for 9.0."""

    index: int
    name: str
    uuid: str
    memory_bytes: int
    used_bytes: int
    sm: int

    @property
    def free_bytes(self) -> int:
        """Memory that nobody uses."""
        return self.memory_bytes - self.used_bytes


@dataclass(frozen=True)
class Host:
    """What was found; None or empty where there is nothing, or it could not be asked (`notes` say why).

    `links` are pairs of GPUs with what joins them, as nvidia-smi names it: ``NV18``, ``PIX``, ``SYS``.
    """

    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    cuda: str | None = None
    links: tuple[tuple[int, int, str], ...] = ()
    shm_bytes: int = 0
    shm_free_bytes: int = 0
    memory_bytes: int = 0
    programs: tuple[tuple[str, str], ...] = ()
    packages: tuple[tuple[str, str], ...] = ()
    has_nvidia_containers: bool = False
    notes: tuple[str, ...] = ()

    @property
    def sm(self) -> int | None:
        """The compute capability, when there are GPUs and all have the same."""
        found = {gpu.sm for gpu in self.gpus}
        return found.pop() if len(found) == 1 else None

    @property
    def topology(self) -> str:
        """The kinds of links, such as ``NV18`` or ``PIX, SYS``; empty for fewer than two GPUs."""
        return ", ".join(sorted({link for _, _, link in self.links}))


PROGRAMS = (
    "trtllm-build",
    "trtllm-serve",
    "trtllm-llmapi-launch",
    "tritonserver",
    "mpirun",
    "docker",
    "podman",
)
"""What is looked for on PATH."""
PACKAGES = ("tensorrt_llm", "tensorrt", "torch", "nvidia-pytriton")
"""Python packages whose versions are looked up; nothing is imported."""
_TRITON = Path("/opt/tritonserver/bin/tritonserver")


def find_host(*, shm: Path = Path("/dev/shm")) -> Host:
    """Look at this host."""
    gpus, driver, notes = _gpus()
    status = os.statvfs(shm) if shm.is_dir() else None
    return Host(
        gpus=gpus,
        driver=driver,
        cuda=_cuda() if gpus else None,
        links=links_of(read_topology()) if len(gpus) > 1 else (),
        shm_bytes=status.f_blocks * status.f_frsize if status else 0,
        shm_free_bytes=status.f_bavail * status.f_frsize if status else 0,
        memory_bytes=_memory_bytes(),
        programs=tuple(_programs()),
        packages=tuple((name, found) for name in PACKAGES if (found := _package(name))),
        has_nvidia_containers=shutil.which("nvidia-container-runtime") is not None
        or shutil.which("nvidia-ctk") is not None,
        notes=tuple(notes),
    )


def container_problem(engine: str) -> str | None:
    """Why docker or podman cannot start a container here, as it says itself; None when it can."""
    if shutil.which(engine) is None:
        return f"{engine}: not found on PATH"
    _, error = _run(engine, "version")  # Docker's client has a status of its own when no daemon answers.
    return f"{engine}: {error.splitlines()[-1]}" if error else None


def has_image(engine: str, image: str) -> bool:
    """Whether docker or podman has an image already."""
    _, error = _run(engine, "image", "inspect", "--format", "{{.Id}}", image)
    return error is None


def parse_gpus(text: str) -> tuple[tuple[Gpu, ...], str | None]:
    """The GPUs and the driver in what nvidia-smi prints for `_GPU_FIELDS` as CSV without header and units.

    Raises:
        ValueError: a line has other fields.
    """
    gpus, driver = [], None
    for line in text.splitlines():
        if not line.strip():
            continue
        index, name, uuid, total, used, capability, driver = (part.strip() for part in line.split(","))
        sm = int(capability.replace(".", ""))
        gpus.append(Gpu(int(index), name, uuid, int(total) * _MIB, int(used) * _MIB, sm))
    return tuple(gpus), driver


def read_topology() -> list[list[str]]:
    """This machine's matrix of links; empty without nvidia-smi, whose absence is no error."""
    text, error = _run("nvidia-smi", "topo", "-m")
    return [] if error else parse_topology(text)


def _gpus() -> tuple[tuple[Gpu, ...], str | None, list[str]]:
    if shutil.which("nvidia-smi") is None:
        return (), None, ["nvidia-smi is not on PATH: no NVIDIA driver, or not visible in this container"]
    text, error = _run("nvidia-smi", f"--query-gpu={','.join(_GPU_FIELDS)}", "--format=csv,noheader,nounits")
    if error:
        return (), None, [f"nvidia-smi: {error}"]
    try:
        gpus, driver = parse_gpus(text)
    except ValueError:
        return (), None, [f"nvidia-smi: not understood: {text.strip()[:200]}"]
    return gpus, driver, []


def _cuda() -> str | None:
    """The newest CUDA that the driver supports by itself."""
    text, _ = _run("nvidia-smi")
    match = re.search(r"CUDA(?: UMD)? Version:\s*([\d.]+)", text)
    return match[1] if match else None


def _run(*words: str) -> tuple[str, str | None]:
    """What a program prints, and why it failed if it did."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", str(error)
    if done.returncode:
        return "", (done.stderr or done.stdout).strip()[:300] or f"status {done.returncode}"
    return done.stdout, None


def _programs() -> list[tuple[str, str]]:
    found = [(name, path) for name in PROGRAMS if (path := shutil.which(name))]
    if "tritonserver" not in dict(found) and _TRITON.is_file():
        found.append(("tritonserver", str(_TRITON)))
    return found


def _package(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
