"""Shows a server that answers, or the command that would start one. It starts nothing."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.cli.output import Output
from tpforge.outputs.places import OUT
from tpforge.units import format_seconds

if TYPE_CHECKING:
    from scripts.flows.serving.launch_facts import Launch
    from triton_repo.serve.local import Server


_FRONTS = {"openai": "OpenAI", "kserve": "KServe"}


def print_ready(output: Output, server: Server, *, engine: Path, detach: bool) -> None:
    """Where the server of an engine is reached, and how it is stopped."""
    output.result(f"ready after {format_seconds(server.seconds_to_ready)}")
    if server.api == "triton":
        output.result(f"gRPC     {server.grpc_url}")
        output.result(f"HTTP     {server.http_url}")
    elif server.api == "openai":
        output.result(f"OpenAI   {server.http_url}/v1  (model {server.model})")
    else:
        output.result(f"gRPC     {server.grpc_url}  (trtllm-serve's own, by token ids)")
    if server.api != "trtllm-grpc":
        output.result(f"metrics  {server.metrics_url}")
    for name, address in server.addresses.items():
        output.result(f"{_FRONTS.get(name, name):<7}  {address}")
    output.result(f"log      {server.log}")
    output.record("server", server_fields(server))
    # What lies elsewhere is found when it is named alone.
    named = "" if engine.resolve().is_relative_to(OUT.resolve()) else f" {shlex.quote(str(engine))}"
    output.note(f"stop it with: tpforge stop{named}" if detach else "Ctrl-C stops it")


def print_launch(output: Output, launch: Launch) -> None:
    """The command that would be run, and what would be refused."""
    served = "repository" if launch.server == "triton" else "engine    "
    output.result(f"{served}  {launch.repository}")
    gpus = ", ".join(map(str, launch.devices))
    output.result(f"release     TensorRT-LLM {launch.release.trtllm}; {launch.container}, GPUs {gpus}")
    output.result(f"\n$ {launch.line}")
    if launch.misfits:
        output.result("\nwould be refused on this host:")
        for line in launch.misfits:
            output.result(f"  {line}")
    if launch.security.admin_key_file is not None:
        from triton_repo.serve.security import KEY_PLACE

        output.note(f"{KEY_PLACE} stands for the key in {launch.security.admin_key_file}")
    output.note("nothing of this was run")
    output.record(
        "launch",
        {
            "repository": str(launch.repository),
            "release": launch.release.trtllm,
            "container": launch.container,
            "mode": launch.mode,
            "server": launch.server,
            "model": launch.model,
            "gpus": list(launch.devices),
            "command": list(launch.command.words),
            "environment": launch.command.environment,
            "misfits": list(launch.misfits),
            "doubts": list(launch.doubts),
            "run": False,
        },
    )


def server_fields(server: Server) -> dict[str, object]:
    """A server for --json."""
    return {
        "api": server.api,
        "model": server.model,
        "grpc_url": server.grpc_url if server.api != "openai" else None,
        "http_url": server.http_url if server.api != "trtllm-grpc" else None,
        "metrics_url": server.metrics_url,
        "repository": str(server.repository),
        "addresses": dict(server.addresses),
        "state_dir": str(server.state_dir),
        "log": str(server.log),
        "seconds_to_ready": server.seconds_to_ready,
        "pid": server.pid,
    }
