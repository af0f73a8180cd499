"""Which runtime `--runtime auto` means on a host: TensorRT-LLM where it can run, else the reference runtime.

It looks at nothing itself (`host` does), and never stands in for what was asked for: a release that was named
and cannot run here is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from engines.host import Host
from tpforge.errors import EnvironmentUnusable, UsageError
from tpforge.runtime import Runtime
from tpforge.trtllm.versions import DEFAULT_RELEASE, Release, find_release, read_version
from tpforge.units import counted

Where = Literal["none", "docker", "podman"]


@dataclass(frozen=True)
class RuntimeChoice:
    """The runtime, why, and what would change it; the release and where it runs, for TensorRT-LLM's."""

    runtime: Runtime
    because: str
    otherwise: str
    trtllm: str | None = None
    container: Where = "none"

    @property
    def line(self) -> str:
        """The choice in one line, by names that options and keys of a recipe have alike."""
        return f"runtime {self.runtime}: {self.because}; {self.otherwise}"


def choose_runtime(
    host: Host, *, trtllm: str | None = None, silent: Mapping[str, str] | None = None
) -> RuntimeChoice:
    """What `auto` means on this host; `trtllm` is the release that was asked for.

    `silent` are docker and podman where they are there but start no containers, with what they say.

    Raises:
        EnvironmentUnusable: a release was asked for, and TensorRT-LLM cannot run here.
        UsageError: there is no such release.
    """
    silent = silent or {}
    trtllm = None if trtllm is None else read_version(trtllm)
    found, obstacle = _tensorrt_llm(host, trtllm, silent)
    if found is not None:
        release, where = found
        return _of_release(host, release, where)
    if trtllm is not None:
        raise EnvironmentUnusable(
            f"trtllm {trtllm}: {obstacle}; to prepare an engine for another host give runtime tensorrt or "
            "pytorch, for this one leave trtllm out"
        )
    return RuntimeChoice(
        "reference",
        obstacle,
        "runtime tensorrt or pytorch prepares an engine for a host that has it",
    )


def _tensorrt_llm(
    host: Host, asked: str | None, silent: Mapping[str, str]
) -> tuple[tuple[Release, Where] | None, str]:
    """The release and where it runs; or None and why there is none."""
    if not host.gpus:
        notes = f" ({'; '.join(host.notes)})" if host.notes else ""
        return None, f"this host has no NVIDIA GPU{notes}"
    installed = dict(host.packages).get("tensorrt_llm")
    if installed is not None and asked in (None, installed):
        try:
            return (find_release(installed), "none"), ""
        except UsageError as error:
            return None, f"TensorRT-LLM {installed} is installed, but {error}"
    release = find_release(asked or DEFAULT_RELEASE)
    programs = dict(host.programs)
    engines: tuple[Where, ...] = ("docker", "podman")
    able = [name for name in engines if name in programs and name not in silent]
    if able and host.has_nvidia_containers and _image(release) is not None:
        return (release, able[0]), ""
    return None, _obstacle(host, release, silent, installed, has_engine=bool(able))


def _of_release(host: Host, release: Release, where: Where) -> RuntimeChoice:
    """Compiled engines where the release has them, else the LLM API."""
    place = "installed" if where == "none" else f"in its container by {where}"
    has = f"{counted(len(host.gpus), 'NVIDIA GPU')} and TensorRT-LLM {release.trtllm}, {place}"
    compiles = "tensorrt" in release.runtimes
    # A host where it is installed without trtllm-build, such as a wheel's, still has the LLM API.
    if compiles and where == "none" and "trtllm-build" not in dict(host.programs):
        compiles = False
    if compiles:
        return RuntimeChoice(
            "tensorrt",
            f"{has}, which compiles engines",
            "runtime pytorch takes its LLM API, runtime reference ours",
            release.trtllm,
            where,
        )
    if "pytorch" not in release.runtimes:
        return RuntimeChoice(
            "reference",
            f"{has}, whose arguments no table here has",
            "trtllm names another release; `tpforge versions` lists them",
        )
    return RuntimeChoice(
        "pytorch",
        f"{has}, which has the LLM API and compiles no engines here",
        "runtime reference takes ours",
        release.trtllm,
        where,
    )


def _image(release: Release) -> str | None:
    return release.image or release.release_image


def _obstacle(
    host: Host, release: Release, silent: Mapping[str, str], installed: str | None, *, has_engine: bool
) -> str:
    gpus = counted(len(host.gpus), "NVIDIA GPU")
    here = "is not installed" if installed is None else f"is not the one installed ({installed})"
    if silent:
        why = "; ".join(f"{name} starts no container: {said}" for name, said in sorted(silent.items()))
    elif not has_engine:
        why = "neither docker nor podman is on PATH"
    elif not host.has_nvidia_containers:
        why = "NVIDIA's container toolkit is missing"
    else:
        why = "no container is known for it"
    return f"{gpus}, but TensorRT-LLM {release.trtllm} {here}, and {why}"
