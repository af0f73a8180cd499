"""Whether an engine can run on a host: what its runtime needs, held against what there is.

It answers before anything is started, and names both sides. It starts nothing; a value that is not known is
not judged.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from engines.host import Gpu, Host
from tpforge.manifest import Manifest
from tpforge.trtllm.versions import Release, version_key
from tpforge.units import format_bytes

_SHM_BYTES = 1 << 30
_OVERHEAD = 1.15
"""Memory beside the weights that a rank needs before any KV cache: context, NCCL, activations (at least)."""


def find_misfits(
    folder: Path, manifest: Manifest, host: Host, *, release: Release, devices: Sequence[int], container: bool
) -> list[str]:
    """Everything that keeps the engine in `folder` from running here, sorted.

    `devices` are the GPUs that are to be used, `container` whether the release's container runs it.
    """
    problems = [*_folder_problems(folder, manifest), *_gpu_problems(manifest, host, devices)]
    problems += _unreadable(folder, manifest)
    problems += _driver_problems(host, release) if container else _installed_problems(manifest, host, release)
    if not container and 0 < host.shm_free_bytes < _SHM_BYTES:
        problems.append(
            f"/dev/shm: {format_bytes(host.shm_free_bytes)} are free, expected {format_bytes(_SHM_BYTES)} "
            "or more (tensorrtllm_backend 562)"
        )
    return sorted(problems)


def find_build_misfits(host: Host, *, release: Release, container: bool) -> list[str]:
    """Everything that keeps trtllm-build of the release from compiling here, sorted."""
    problems = []
    if not host.gpus:
        reason = f" ({'; '.join(host.notes)})" if host.notes else ""
        problems.append(f"GPUs: this host has none{reason}; trtllm-build tries its kernels on one")
    if container:
        problems += _driver_problems(host, release)
    found = dict(host.packages).get("tensorrt_llm")
    if not container and found is not None and found != release.trtllm:
        problems.append(
            f"tensorrt_llm: {found} is installed, {release.trtllm} is asked for; give --trtllm {found}, or "
            "--container docker"
        )
    return sorted(problems)


def find_doubts(host: Host, *, release: Release, devices: Sequence[int]) -> list[str]:
    """What may work, but is worth knowing before it is measured."""
    chosen = set(devices)
    links = sorted({link for one, other, link in host.links if {one, other} <= chosen})
    doubts = []
    if any(not link.startswith("NV") for link in links):
        doubts.append(
            f"the GPUs are joined by {', '.join(links)}, not NVLink: every layer's all-reduce goes over it"
        )
    if host.driver and release.driver and version_key(host.driver) < version_key(release.driver):
        doubts.append(
            f"driver {host.driver} is older than {release.driver}, which the container was made with: "
            "it needs CUDA's compatibility with older drivers"
        )
    return doubts


def _folder_problems(folder: Path, manifest: Manifest) -> Iterator[str]:
    """The engine files are those of the manifest's ranks and release."""
    if manifest.runtime != "tensorrt":
        return
    file = folder / "engine" / "config.json"
    found = sorted(path.name for path in (folder / "engine").glob("rank*.engine"))
    world = manifest.mapping.world_size
    if len(found) != world:
        yield f"{folder / 'engine'}: {len(found)} rank files for tp x pp = {world} ranks (TensorRT-LLM 2021)"
    if not file.is_file():
        yield f"{file}: missing (tensorrtllm_backend 61)"
        return
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        yield f"{file}: is not JSON: {error}"
        return
    version = config.get("version")
    built = manifest.engine_build.trtllm if manifest.engine_build else None
    if version is not None and built is not None and version != built:
        yield f"{file}: made by TensorRT-LLM {version}, but engine.json says {built}"


def _unreadable(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Files that are served, but that this user may not read; a container's root is not this host's."""
    for file in manifest.files:
        path = folder / file.path
        if not file.path.startswith("checkpoint/") and path.exists() and not os.access(path, os.R_OK):
            yield f"{path}: this user may not read it; change its permissions"


def _gpu_problems(manifest: Manifest, host: Host, devices: Sequence[int]) -> Iterator[str]:
    world = manifest.num_ranks
    if len(host.gpus) < world:
        yield f"GPUs: this host has {len(host.gpus)}, the engine needs {world}, one per rank"
        return
    by_index = {gpu.index: gpu for gpu in host.gpus}
    for index in devices:
        if index not in by_index:
            yield f"GPU {index}: this host has {', '.join(map(str, by_index))}"
    chosen = [by_index[index] for index in devices if index in by_index]
    built = manifest.engine_build.sm if manifest.engine_build else None
    for gpu in chosen:
        if built is not None and gpu.sm != built:
            yield (
                f"GPU {gpu.index} ({gpu.name}): is SM {gpu.sm}, the engine was built for SM {built}; "
                "build it again for this GPU (TensorRT-LLM 3031)"
            )
    yield from _memory_problems(manifest, chosen)


def _memory_problems(manifest: Manifest, chosen: Sequence[Gpu]) -> Iterator[str]:
    """The weights of a rank with the least overhead fit into what is free."""
    weights = _rank_bytes(manifest)
    needed = round(weights * _OVERHEAD)
    for gpu in chosen:
        if gpu.free_bytes < needed:
            yield (
                f"GPU {gpu.index} ({gpu.name}): {format_bytes(gpu.free_bytes)} of "
                f"{format_bytes(gpu.memory_bytes)} are free; a rank's weights are {format_bytes(weights)}, "
                f"and with buffers it needs {format_bytes(needed)} before any KV cache"
            )


def _rank_bytes(manifest: Manifest) -> int:
    """Bytes of the largest rank's weights."""
    world = manifest.mapping.world_size
    if manifest.runtime == "pytorch":
        total = sum(file.size for file in manifest.files if re.match(r"model/.*\.safetensors", file.path))
        return total // world
    return max((file.size for file in manifest.files if re.match(r"engine/rank", file.path)), default=0)


def _driver_problems(host: Host, release: Release) -> Iterator[str]:
    if not host.cuda or not release.cuda:
        return
    has, wants = version_key(host.cuda), version_key(release.cuda)
    if has[0] < wants[0]:
        yield (
            f"driver {host.driver}: supports CUDA {host.cuda}, the container of TensorRT-LLM "
            f"{release.trtllm} has CUDA {release.cuda}; install driver {release.driver} or newer"
        )
    if not host.has_nvidia_containers:
        yield "NVIDIA's container toolkit: not found; docker could not give the container a GPU"


def _installed_problems(manifest: Manifest, host: Host, release: Release) -> Iterator[str]:
    packages = dict(host.packages)
    found = packages.get("tensorrt_llm")
    if found is None:
        yield "tensorrt_llm: not installed here; use --container docker, or install the extra tensorrt-llm"
    elif found != release.trtllm:
        yield (
            f"tensorrt_llm: {found} is installed, the engine is of {release.trtllm} "
            "(tensorrtllm_backend 531); use --container docker, or build it again"
        )
    tensorrt = packages.get("tensorrt")
    if manifest.runtime == "tensorrt" and tensorrt is not None and manifest.engine_build is not None:
        wanted = manifest.engine_build.tensorrt
        if not tensorrt.startswith(wanted) and not wanted.startswith(tensorrt):
            yield f"tensorrt: {tensorrt} is installed, the engine was built with {wanted} (TensorRT-LLM 660)"
