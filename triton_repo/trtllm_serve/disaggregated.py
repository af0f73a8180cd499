"""Disaggregated serving on one host: context and generation servers, and the front that divides requests.

From engines of runtime pytorch to texts; it writes no file and starts nothing. Sources: NVIDIA/TensorRT-LLM,
examples/disaggregated/README.md; tensorrt_llm/llmapi/disagg_utils.py @0228a7122341 (1.3.0rc).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tpforge.errors import InputRefused
from tpforge.manifest import Manifest
from tpforge.trtllm.dotted import nest
from tpforge.units import counted
from tpforge.yaml_text import to_yaml
from triton_repo.trtllm_serve.command import PROGRAM, TrtllmServe, trtllm_serve_command

Transceiver = Literal["DEFAULT", "UCX", "NIXL", "MOONCAKE", "MPI"]
FRONT, START = "disaggregated.yaml", "start.sh"
START_S = 1800
"""For how long the front waits for its servers: large weights, kernels made at the first start."""


@dataclass(frozen=True)
class Group:
    """Servers of one engine: its folder, its record, how many."""

    engine: Path
    manifest: Manifest
    num_instances: int

    @property
    def arguments(self) -> dict[str, Any]:
        """Its llm.yaml by dotted names."""
        return dict(self.manifest.llm_api.arguments) if self.manifest.llm_api else {}

    @property
    def num_gpus(self) -> int:
        """Of one instance."""
        return self.manifest.num_ranks


@dataclass(frozen=True)
class Disaggregated:
    """What is asked for: the two groups, how KV caches move, where it listens, the folder of its files."""

    context: Group
    generation: Group
    transceiver: Transceiver
    folder: Path
    host: str = "127.0.0.1"
    port_base: int = 8000

    @property
    def num_gpus(self) -> int:
        """Of all servers."""
        return sum(group.num_gpus * group.num_instances for group in (self.context, self.generation))


def disaggregated_files(asked: Disaggregated) -> dict[str, str]:
    """The settings of each group, those of the front, and the script that starts all of it.

    Raises:
        InputRefused: the engines cannot serve one model together.
    """
    _refuse(asked)
    servers = list(_servers(asked))
    return {
        "context.yaml": _settings(asked, asked.context, overlap=False),
        "generation.yaml": _settings(asked, asked.generation, overlap=True),
        FRONT: _front(asked, servers),
        START: _script(asked, servers),
    }


@dataclass(frozen=True)
class _Server:
    kind: Literal["context", "generation"]
    number: int
    port: int
    gpus: range
    group: Group


def _servers(asked: Disaggregated) -> Iterator[_Server]:
    port, gpu = asked.port_base + 1, 0
    kinds: tuple[tuple[Literal["context", "generation"], Group], ...] = (
        ("context", asked.context),
        ("generation", asked.generation),
    )
    for kind, group in kinds:
        for number in range(group.num_instances):
            yield _Server(kind, number, port, range(gpu, gpu + group.num_gpus), group)
            port, gpu = port + 1, gpu + group.num_gpus


def _settings(asked: Disaggregated, group: Group, *, overlap: bool) -> str:
    """llm.yaml of a group with what moves KV caches.

    The overlap scheduler is off where prompts are computed: there it is not supported (README of upstream).
    The buffer holds the longest prompt, as upstream recommends.
    """
    moved = {
        "cache_transceiver_config.backend": asked.transceiver,
        "cache_transceiver_config.max_tokens_in_buffer": group.manifest.limits.max_input_len,
    }
    own = group.arguments if overlap else {**group.arguments, "disable_overlap_scheduler": True}
    kind = "generation" if overlap else "context"
    return to_yaml(nest({**moved, **own}), comment=f"The LLM API of a {kind} server; {group.manifest.name}")


def _front(asked: Disaggregated, servers: list[_Server]) -> str:
    def section(kind: str) -> dict[str, Any]:
        urls = [f"localhost:{server.port}" for server in servers if server.kind == kind]
        return {"num_instances": len(urls), "urls": urls}

    value = {
        "hostname": asked.host,
        "port": asked.port_base,
        "context_servers": section("context"),
        "generation_servers": section("generation"),
    }
    return to_yaml(value, comment=f"{PROGRAM} disaggregated; clients ask it")


def _script(asked: Disaggregated, servers: list[_Server]) -> str:
    """Every server in the background, then the front; they end together."""
    release = asked.context.manifest.llm_api
    assert release is not None
    gpus = counted(asked.num_gpus, "GPU")
    lines = [
        "#!/usr/bin/env bash",
        f"# {gpus} of one host with TensorRT-LLM {release.trtllm}, or in its container;",
        f"# clients ask http://{asked.host}:{asked.port_base}/v1. Nothing of it was run.",
        "set -euo pipefail",
        "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT",
        "export TRTLLM_NO_USAGE_STATS=1",
    ]
    for server in servers:
        command = trtllm_serve_command(
            TrtllmServe(
                engine=server.group.engine,
                name=asked.context.manifest.name,
                version=release.trtllm,
                port=server.port,
                address="localhost",
                config=asked.folder / f"{server.kind}.yaml",
            )
        )
        devices = ",".join(map(str, server.gpus))
        log = asked.folder / f"{server.kind}-{server.number}.log"
        lines.append(
            f"CUDA_VISIBLE_DEVICES={devices} {shlex.join(command.words)} &>{shlex.quote(str(log))} &"
        )
    front = [
        PROGRAM,
        "disaggregated",
        "-c",
        str(asked.folder / FRONT),
        "-t",
        str(START_S),
        "-r",
        str(START_S),
    ]
    return "\n".join([*lines, shlex.join(front), ""])


def _refuse(asked: Disaggregated) -> None:
    groups = {"context": asked.context, "generation": asked.generation}
    problems = [
        f"{kind}: {group.manifest.name} is of runtime {group.manifest.runtime}, expected pytorch"
        for kind, group in groups.items()
        if group.manifest.llm_api is None
    ]
    if not problems:
        problems += _differences(asked)
        problems += [
            f"{kind}: enable_lora does not go with disaggregated serving as far as upstream has tried it"
            for kind, group in groups.items()
            if group.arguments.get("enable_lora")
        ]
        problems += [
            f"{kind}: {group.manifest.name} runs by AutoDeploy, which upstream does not divide into prompts "
            "and answers"
            for kind, group in groups.items()
            if group.manifest.llm_backend != "pytorch"
        ]
    if problems:
        raise InputRefused.listing("these engines cannot serve one model together:", sorted(problems))


def _differences(asked: Disaggregated) -> Iterator[str]:
    one, other = asked.context.manifest, asked.generation.manifest
    assert one.llm_api is not None and other.llm_api is not None
    if one.llm_api.trtllm != other.llm_api.trtllm:
        yield f"TensorRT-LLM {one.llm_api.trtllm} computes prompts, {other.llm_api.trtllm} answers; use one"
    files = [{file.path: file.sha256 for file in manifest.source.files} for manifest in (one, other)]
    if files[0] != files[1]:
        yield f"{one.name} and {other.name} are of different models; build both of the same files"
    dtype = "kv_cache_config.dtype"
    kinds = [group.arguments.get(dtype, "auto") for group in (asked.context, asked.generation)]
    if kinds[0] != kinds[1]:
        yield f"{dtype}: {kinds[0]} of context, {kinds[1]} of generation; a cache moves as it is: use one"
    if other.limits.max_seq_len < one.limits.max_seq_len:
        yield (
            f"max_seq_len: {other.limits.max_seq_len} of generation is below {one.limits.max_seq_len} of "
            "context"
        )
