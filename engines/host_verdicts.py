"""What a host can do, one verdict per part, judged for one release of TensorRT-LLM.

It looks at nothing itself: `host` does, and who composes adds the server's verdict.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from engines.host import Host
from tpforge.errors import InputRefused, UsageError
from tpforge.trtllm.versions import Release, find_release, releases, version_key
from tpforge.units import counted, format_bytes

Verdict = Literal["ok", "warning", "missing"]
_SHM_BYTES = 1 << 30


@dataclass(frozen=True)
class Finding:
    """One part of the host: what was found, whether it will do, and what to do when it will not."""

    part: str
    found: str
    verdict: Verdict
    advice: str = ""


@dataclass(frozen=True)
class Verdicts:
    """All findings, and what works here, one line per runtime."""

    findings: tuple[Finding, ...]
    works: tuple[str, ...]


def judge_host(
    host: Host, *, release: Release, silent: Mapping[str, str] | None = None, server: Finding | None = None
) -> Verdicts:
    """The verdicts on a host; `server` is the one on its Triton server.

    `silent` are docker and podman where they are there but start no containers, with what they say.
    """
    silent = silent or {}
    findings = [
        *_gpus(host),
        *_driver(host, release),
        *_containers(host, silent),
        *_tensorrt_llm(host, release),
        *((server,) if server is not None else ()),
        *_memory(host),
    ]
    return Verdicts(tuple(findings), tuple(_works(host, release, silent)))


def newest_for(cuda: str) -> Release | None:
    """The newest release whose container's CUDA is of the same major version as the driver's, or older."""
    fitting = [one for one in releases() if one.triton and version_key(one.cuda)[0] <= version_key(cuda)[0]]
    return fitting[-1] if fitting else None


def _gpus(host: Host) -> Iterator[Finding]:
    if not host.gpus:
        reason = "; ".join(host.notes) or "none"
        yield Finding("GPUs", reason, "missing", "reference runs on the CPU; TensorRT-LLM needs NVIDIA's")
        return
    for gpu in host.gpus:
        free = f"{format_bytes(gpu.free_bytes)} of {format_bytes(gpu.memory_bytes)} free"
        text = f"{gpu.name}, SM {gpu.sm}, {free}"
        busy = gpu.used_bytes > gpu.memory_bytes // 10
        advice = "something else uses it: nvidia-smi shows what" if busy else ""
        yield Finding(f"GPU {gpu.index}", text, "warning" if busy else "ok", advice)
    if len(host.gpus) < 2:
        return
    if host.sm is None:
        yield Finding("GPUs", "of several kinds", "warning", "an engine runs on the kind it was built on")
    nvlink = all(link.startswith("NV") for _, _, link in host.links)
    advice = "" if nvlink else "all-reduces go over PCIe: measure tp before you believe in it"
    yield Finding("links", host.topology or "not known", "ok" if nvlink and host.links else "warning", advice)


def _driver(host: Host, release: Release) -> Iterator[Finding]:
    if not host.gpus or host.driver is None:
        return
    text = f"{host.driver}, CUDA {host.cuda or 'not known'}"
    if host.cuda and release.cuda and version_key(host.cuda)[0] < version_key(release.cuda)[0]:
        other = newest_for(host.cuda)
        wanted = release.driver if release.driver else f"a driver with CUDA {release.cuda}"
        advice = f"TensorRT-LLM {release.trtllm} needs {wanted} or newer"
        if other is not None:
            advice += f"; this driver runs the container of {other.trtllm}"
        yield Finding("driver", text, "missing", advice)
    elif not release.driver:
        advice = f"upstream's tables do not give the driver that {release.trtllm} needs"
        yield Finding("driver", text, "warning", advice)
    elif version_key(host.driver) < version_key(release.driver):
        advice = f"older than {release.driver} of the container; CUDA's minor version compatibility covers it"
        yield Finding("driver", text, "warning", advice)
    else:
        yield Finding("driver", text, "ok")


def _containers(host: Host, silent: Mapping[str, str]) -> Iterator[Finding]:
    for reason in silent.values():
        yield Finding("containers", reason, "missing", "start its service: needed for --container only")
    found = _engines(host, silent)
    if silent and not found:
        return
    if not found:
        yield Finding("containers", "neither docker nor podman", "missing", "needed for --container only")
    elif host.gpus and not host.has_nvidia_containers:
        yield Finding(
            "containers", ", ".join(found), "missing", "install nvidia-container-toolkit to give them GPUs"
        )
    else:
        yield Finding("containers", ", ".join(found), "ok")


def _engines(host: Host, silent: Mapping[str, str]) -> list[str]:
    programs = dict(host.programs)
    return [name for name in ("docker", "podman") if name in programs and name not in silent]


def _tensorrt_llm(host: Host, release: Release) -> Iterator[Finding]:
    packages, programs = dict(host.packages), dict(host.programs)
    installed = packages.get("tensorrt_llm")
    if installed is None:
        container = release.image or release.release_image
        advice = f"use the container {container}"
        advice += ", or the extra tensorrt-llm in an environment of its own" if host.gpus else ""
        yield Finding("TensorRT-LLM", "not installed", "missing", advice)
        return
    text = f"{installed}, TensorRT {packages.get('tensorrt', 'not found')}"
    known, doubt = _known(installed)
    advices = [doubt] if doubt else []
    if installed != release.trtllm:
        advices.insert(0, f"judged for {release.trtllm}; build with --trtllm {installed}")
    yield Finding("TensorRT-LLM", text, "warning" if advices else "ok", "; ".join(advices))
    if "trtllm-build" not in programs and (known or release).engines:
        yield Finding("trtllm-build", "not on PATH", "warning", "compiled engines need it, or --container")
    if "mpirun" not in programs:
        yield Finding("mpirun", "not on PATH", "warning", "several ranks need it, or --container")


def _known(installed: str) -> tuple[Release | None, str]:
    """What is known of an installed release, by learning or the tables, and what is doubtful in it."""
    try:
        found = find_release(installed)
    except UsageError:
        return None, "no table knows this release: `tpforge versions --learn` asks it"
    except InputRefused as error:
        return None, str(error)
    is_sure = found.arguments_sure != "unsure"
    return found, "" if is_sure else "its arguments are not sure: `tpforge versions --learn` asks it"


def _memory(host: Host) -> Iterator[Finding]:
    low = host.shm_free_bytes < _SHM_BYTES
    text = f"{format_bytes(host.shm_free_bytes)} of {format_bytes(host.shm_bytes)} free"
    advice = "Triton's models and NCCL share it: docker --shm-size 16g" if low else ""
    yield Finding("/dev/shm", text, "warning" if low else "ok", advice)
    yield Finding("host memory", format_bytes(host.memory_bytes), "ok")
    yield Finding("disk", f"{format_bytes(shutil.disk_usage('.').free)} free here", "ok")


def _works(host: Host, release: Release, silent: Mapping[str, str]) -> Iterator[str]:
    yield "reference: build, verify, render, serve, smoke and measure, on the CPU" + (
        " or a GPU" if host.gpus else ""
    )
    programs = dict(host.programs)
    prepared = "build and serve with --dry-run: arguments checked, commands and repositories written"
    has_container = host.gpus and host.has_nvidia_containers and _engines(host, silent)
    if "tensorrt" not in release.runtimes:
        yield f"tensorrt: nothing; tpforge prepares no compiled engines for TensorRT-LLM {release.trtllm}"
    elif host.gpus and ("trtllm-build" in programs or has_container):
        gpus = counted(len(host.gpus), "GPU")
        yield f"tensorrt: compile and serve with TensorRT-LLM {release.trtllm}, {gpus}"
    else:
        yield f"tensorrt: {prepared}, nothing compiled"
    if host.gpus and (dict(host.packages).get("tensorrt_llm") or has_container):
        yield f"pytorch: serve with TensorRT-LLM's LLM API, {counted(len(host.gpus), 'GPU')}"
    else:
        yield "pytorch: build the engine folder and the repository; serve with --dry-run"
