"""What NVIDIA Dynamo is told of an engine wherever it runs: image, groups of workers, each program's words.

It writes no file, and counts no workers: how many of each kind is the user's word, or a plan's.
Sources: the wheel ai-dynamo 1.6.1 (options of dynamo.frontend, dynamo.trtllm, dynamo.triton);
ai-dynamo/dynamo, examples/backends/trtllm/deploy/v1beta1 (what prefill and decode workers want).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from tpforge.errors import UsageError
from tpforge.manifest import Manifest
from tpforge.units import counted
from triton_repo.deploy.deployment import Deployment
from triton_repo.deploy.options import DeployOptions

Object = dict[str, Any]
Role = Literal["worker", "prefill", "decode"]
RELEASE, RELEASE_TRTLLM = "1.6.1", "1.3.0rc29"
IMAGE = f"nvcr.io/nvidia/ai-dynamo/tensorrtllm-runtime:{RELEASE}"
"""Dynamo's own container; its wheel asks for this release of TensorRT-LLM."""
HTTP, GRPC_METRICS = 8000, 8788
"""The operator's port of a front, and Dynamo's for metrics beside gRPC."""


@dataclass(frozen=True)
class Group:
    """Workers of one role; `overrides` are the arguments of the LLM API that the role wants."""

    role: Role
    replicas: int
    overrides: Object


def dynamo_options(options: DeployOptions, manifest: Manifest) -> DeployOptions:
    """The options with Dynamo's image, where it holds the engine's release of TensorRT-LLM.

    Raises:
        UsageError: no image of Dynamo is known for the engine.
    """
    if options.image is not None or manifest.runtime == "reference":
        return options
    if manifest.runtime == "tensorrt":
        raise UsageError(
            "--image is missing: NVIDIA publishes no image with both Dynamo and Triton's backend of "
            f"TensorRT-LLM; put ai-dynamo and ai-dynamo-runtime {RELEASE} into the engine's Triton container"
        )
    trtllm = manifest.llm_api.trtllm if manifest.llm_api else None
    if trtllm != RELEASE_TRTLLM:
        raise UsageError(
            f"--image is missing: {IMAGE} holds TensorRT-LLM {RELEASE_TRTLLM}, the engine is of {trtllm}; "
            f"give an image of Dynamo with that release, or build with --trtllm {RELEASE_TRTLLM}"
        )
    return options.model_copy(update={"image": IMAGE})


def refuse_workers(deployment: Deployment) -> None:
    """Refuse what no worker of Dynamo runs.

    Raises:
        UsageError: says what would.
    """
    options, compiled = deployment.options, deployment.runtime == "tensorrt"
    divided = options.prefill_workers is not None or options.decode_workers is not None
    if deployment.runtime == "reference":
        raise UsageError(
            f"{deployment.name}: is of runtime reference, for which Dynamo has no worker of its own; build "
            "it with --runtime pytorch, or use `tpforge serve --openai` on one host"
        )
    if compiled and deployment.world_size > 1:
        raise UsageError(
            f"{deployment.name}: {counted(deployment.world_size, 'rank')} of a compiled engine are as many "
            "processes, and dynamo.triton is one; build it with --runtime pytorch or --tp 1, or use --target "
            + ("kubernetes" if deployment.num_nodes == 1 else "multi-node")
        )
    if divided and compiled:
        raise UsageError(
            "--prefill-workers and --decode-workers: a compiled engine behind dynamo.triton does both; build "
            "it with --runtime pytorch"
        )
    if divided and (options.prefill_workers is None or options.decode_workers is None):
        raise UsageError("--prefill-workers and --decode-workers: give both, or neither")
    if divided and options.replicas != 1:
        raise UsageError(
            f"--replicas {options.replicas}: with --prefill-workers and --decode-workers those are the counts"
        )
    if compiled and options.router_mode == "kv":
        raise UsageError(
            "--router-mode kv: Triton tells Dynamo not what its KV cache holds; use round-robin or another"
        )


def groups_of(deployment: Deployment) -> list[Group]:
    """One group that does both, or one for prompts and one for answers.

    Where prompts are computed the overlap scheduler is off, since there it is not supported.
    Source: ai-dynamo/dynamo, examples/backends/trtllm/deploy/v1beta1/disagg-multinode.yaml.
    """
    options = deployment.options
    if options.prefill_workers is None or options.decode_workers is None:
        return [Group("worker", options.replicas, {})]
    moved = {"cache_transceiver_config": {"backend": "DEFAULT"}}
    return [
        Group("prefill", options.prefill_workers, {"disable_overlap_scheduler": True, **moved}),
        Group("decode", options.decode_workers, moved),
    ]


def front_words(deployment: Deployment) -> list[str]:
    """The front: OpenAI's API, before compiled engines KServe's gRPC with metrics on a port of their own."""
    words = ["python3", "-m", "dynamo.frontend", "--router-mode", router_of(deployment)]
    if deployment.runtime == "tensorrt":
        words += ["--kserve-grpc-server", "--http-port", str(HTTP)]
        words += ["--grpc-metrics-port", str(GRPC_METRICS)]
    return words


def worker_words(deployment: Deployment, group: Group) -> list[str]:
    """A worker of a group."""
    if deployment.runtime == "tensorrt":
        return ["python3", "-m", "dynamo.triton", "--model-repository", str(deployment.repository)]
    engine = deployment.engine_in_store
    words = ["python3", "-m", "dynamo.trtllm", "--model", str(engine / "model")]
    words += ["--served-model-name", deployment.served_name]
    words += ["--extra-engine-args", str(engine / "llm.yaml")]
    if group.role != "worker":
        words += ["--disaggregation-mode", group.role]
    if group.overrides:
        words += ["--override-engine-args", json.dumps(group.overrides)]
    if router_of(deployment) == "kv":
        words.append("--publish-kv-events")
    return words


def worker_environment(deployment: Deployment) -> dict[str, str]:
    """What a worker's container needs beside what the user says: what the LLM API does."""
    return {} if deployment.runtime == "tensorrt" else deployment.llm_environment


def router_of(deployment: Deployment) -> str:
    """How the front chooses a worker."""
    return deployment.options.router_mode or "round-robin"
