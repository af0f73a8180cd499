"""Where and how Triton runs. It starts nothing."""

from __future__ import annotations

from pathlib import Path

import click

from scripts.cli.options.common import Amount, Decorator, together


def server_options() -> Decorator:
    """Where and how Triton runs."""
    return together(
        click.option(
            "--port-base",
            type=click.IntRange(1024, 65533),
            default=8000,
            show_default=True,
            help="HTTP port; gRPC is the next one, metrics the one after.",
        ),
        click.option(
            "--host",
            default="127.0.0.1",
            show_default=True,
            help="Address to listen on; 0.0.0.0 is all of them.",
        ),
        click.option(
            "--tritonserver",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="The server's binary.  [default: on PATH, else the one of nvidia-pytriton]",
        ),
        click.option(
            "--load-timeout",
            type=click.IntRange(min=1),
            help="Seconds for all models to load.  [default: 300; TensorRT-LLM: 1800]",
        ),
        click.option(
            "--drain",
            type=Amount(min=0),
            help="Seconds that requests in flight may go on when the server is told to end.  [default: 30]",
        ),
        click.option(
            "--server",
            type=click.Choice(["auto", "triton", "trtllm-serve", "trtllm-grpc"]),
            default="auto",
            show_default=True,
            help="pytorch: what serves; auto: Triton where a container of it holds the release. trtllm-grpc: "
            "trtllm-serve by its own gRPC.",
        ),
        click.option(
            "--container",
            type=click.Choice(["auto", "none", "docker", "podman"]),
            default="auto",
            show_default=True,
            help="TensorRT-LLM: where it runs; auto: here when that release is installed, else docker.",
        ),
        click.option("--image", help="TensorRT-LLM: another container than the release's."),
        click.option(
            "--mode",
            type=click.Choice(["leader", "orchestrator"]),
            default="leader",
            show_default=True,
            help="tensorrt: one tritonserver per rank, or one that starts the ranks itself.",
        ),
        click.option(
            "--devices", metavar="0,1,...", help="TensorRT-LLM: which GPUs.  [default: the first ones]"
        ),
        front_options(),
    )


def front_options() -> Decorator:
    """The front of NVIDIA Dynamo before the server, or before several of one engine."""
    return together(
        click.option(
            "--openai", is_flag=True, help="Speak OpenAI's API too, by NVIDIA Dynamo: tpforge setup openai."
        ),
        click.option(
            "--openai-port",
            type=click.IntRange(1024, 65534),
            help="Its port.  [default: three above --port-base]",
        ),
        click.option(
            "--kserve-port",
            type=click.IntRange(1024, 65534),
            help="Speak KServe's gRPC through Dynamo there.",
        ),
        click.option(
            "--replicas",
            type=click.IntRange(min=1),
            default=1,
            show_default=True,
            help="Servers of the engine behind one front, their ports ten apart.",
        ),
        click.option(
            "--router",
            type=click.Choice(["round-robin", "random", "power-of-two", "least-loaded", "kv"]),
            default="round-robin",
            show_default=True,
            help="How the front divides requests; kv: to where the start of the prompt was seen.",
        ),
        click.option("--tool-call-parser", metavar="NAME", help="Dynamo's parser of tool calls: hermes, ..."),
        click.option("--reasoning-parser", metavar="NAME", help="Dynamo's parser of thoughts: qwen3, ..."),
    )
