"""`tpforge deploy`: an engine past one process."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from scripts.cli.options.common import DEBUG, FORCE, JSON, SIZE, out_option
from scripts.cli.output import Output
from tpforge.errors import UsageError

TARGET_NAMES = ("compose", "kubernetes", "helm", "multi-node", "dynamo", "dynamo-compose", "kserve", "slurm")


@click.command("deploy")
@click.argument("engine", metavar="ENGINE")
@click.option("--target", type=click.Choice(TARGET_NAMES), required=True, help="Where it is to run.")
@out_option("Where to write the files.  [default: deploy-TARGET beside the engine]")
@click.option("--engine-url", metavar="URL", help="Where `tpforge engines push` put the engine.")
@click.option("--digest", metavar="SHA256", help="What it printed: no other engine is started.")
@click.option("--any-digest", is_flag=True, help="Start whatever engine lies at the URL.")
@click.option("--storage-uri", metavar="URI", help="kserve: where storage.sh's folder lies.")
@click.option("--image", help="The server's image.  [default: the container of the engine's release]")
@click.option("--tools-image", help="The image with tpforge.  [default: tpforge:VERSION]")
@click.option("--namespace", default="default", show_default=True, help="Kubernetes: the namespace.")
@click.option(
    "--replicas", type=SIZE, default=1, show_default=True, help="Servers of the engine; Dynamo: workers."
)
@click.option(
    "--max-replicas",
    type=SIZE,
    default=4,
    show_default=True,
    help="Kubernetes: the most that the autoscaler starts.",
)
@click.option("--gpus-per-node", type=SIZE, default=8, show_default=True, help="GPUs of a node.")
@click.option(
    "--gpu-product",
    metavar="LABEL",
    help="Kubernetes: nodes with this nvidia.com/gpu.product.  [default: the GPU of the build]",
)
@click.option("--topology-key", metavar="LABEL", help="multi-node: the domain that a group must share.")
@click.option(
    "--load-timeout",
    type=SIZE,
    metavar="SECONDS",
    help="Seconds that a start may take.  [default: 120, 1 for each 250 MB, and 300 for TensorRT-LLM]",
)
@click.option(
    "--grace",
    type=click.IntRange(0, 86400),
    metavar="SECONDS",
    help="Seconds that requests in flight may go on at the end.  "
    "[default: the longest request at 25 tokens/s, 30 to 600]",
)
@click.option(
    "--monitor-label",
    "monitor_labels",
    multiple=True,
    metavar="NAME=VALUE",
    help="Kubernetes: label by which Prometheus finds monitors and rules, such as release=prometheus.",
)
@click.option(
    "--monitor-namespace",
    metavar="NAME",
    help="Kubernetes: namespace of Prometheus, which trtllm-serve's port lets in.  [default: monitoring]",
)
@click.option(
    "--surge", type=click.IntRange(min=0), default=1, show_default=True, help="Pods that a rollout may add."
)
@click.option("--priority-class", metavar="NAME", help="Kubernetes: priority class of the pods.")
@click.option(
    "--runtime-class", metavar="NAME", help="Kubernetes: runtime class of the pods, such as nvidia."
)
@click.option(
    "--pull-secret",
    "pull_secrets",
    multiple=True,
    metavar="NAME",
    help="Kubernetes: secret for pulling images; may be repeated.",
)
@click.option(
    "--toleration",
    "tolerations",
    multiple=True,
    metavar="TAINT",
    help="Kubernetes: KEY[=VALUE][:EFFECT] that the pods tolerate; may be repeated.",
)
@click.option("--spread", metavar="LABEL", help="Kubernetes: label over whose domains pods are spread.")
@click.option(
    "--annotation",
    "annotations",
    multiple=True,
    metavar="NAME=VALUE",
    help="Kubernetes: annotation of the pods; may be repeated.",
)
@click.option(
    "--guaranteed",
    is_flag=True,
    help="Kubernetes: limits equal to requests (QoS class Guaranteed).",
)
@click.option("--queue", metavar="NAME", help="Kueue: the local queue that admits the pods.")
@click.option("--queue-topology", metavar="LABEL", help="Kueue: the domain in which pods are placed.")
@click.option(
    "--allow-from",
    multiple=True,
    metavar="CIDR",
    help="Kubernetes: addresses of clients outside the namespace; may be repeated.",
)
@click.option(
    "--gateway",
    metavar="[NAMESPACE/]NAME",
    help="kubernetes: the Gateway that chooses pods of trtllm-serve by an endpoint picker.",
)
@click.option(
    "--rdma",
    metavar="RESOURCE",
    help="multi-node: resource of the fabric's devices, such as rdma/hca_shared_devices_a.",
)
@click.option(
    "--rdma-count", type=SIZE, default=1, show_default=True, help="multi-node: how many of these a pod has."
)
@click.option("--compute-domain", is_flag=True, help="multi-node: NVLink between nodes, as in GB200 NVL72.")
@click.option("--host-network", is_flag=True, help="multi-node: use the nodes' own network.")
@click.option(
    "--env",
    "environment",
    multiple=True,
    metavar="NAME=VALUE",
    help="Environment variable of the ranks, such as NCCL_DEBUG=INFO; may be repeated.",
)
@click.option(
    "--router-mode",
    type=click.Choice(["round-robin", "random", "power-of-two", "least-loaded", "kv"]),
    help="dynamo: how its front chooses a worker.  [default: round-robin]",
)
@click.option("--prefill-workers", type=SIZE, help="dynamo: workers that compute prompts only.")
@click.option("--decode-workers", type=SIZE, help="dynamo: workers that generate answers only.")
@click.option(
    "--plan",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Take the number of replicas, or of Dynamo's workers, from what `tpforge plan --json` printed.",
)
@click.option(
    "--storage-class", metavar="NAME", help="Kubernetes: storage class of the claim that holds engines."
)
@click.option("--partition", help="Slurm: the partition.")
@click.option("--account", help="Slurm: the account that pays.")
@click.option("--qos", help="Slurm: the quality of service.")
@click.option("--time-limit", default="24:00:00", show_default=True, help="Slurm: time limit of the job.")
@click.option(
    "--container",
    type=click.Choice(["pyxis", "modules"]),
    default="pyxis",
    show_default=True,
    help="Slurm: the container by pyxis and enroot, or the site's modules.",
)
@click.option("--module", "modules", multiple=True, help="Slurm: a module to load; may be repeated.")
@click.option(
    "--port-base",
    type=click.IntRange(1024, 65533),
    default=8000,
    show_default=True,
    help="HTTP port; gRPC is the next one, metrics the one after.",
)
@click.option(
    "--apply", "apply_now", is_flag=True, help="Run docker compose, kubectl, helm or sbatch on them."
)
@FORCE
@JSON
@DEBUG
def command(
    engine: str,
    target: str,
    plan: Path | None,
    out: Path | None,
    apply_now: bool,
    force: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Write what runs an engine on a host, a cluster or a Slurm partition.

    With --apply it is run too. compose and slurm take the engine from where it lies; kserve mounts what is
    at --storage-uri; the others pull it from --engine-url. Triton serves it, or trtllm-serve where no
    container of Triton holds its release of TensorRT-LLM (1.3 and later): multi-node, slurm and dynamo are
    for more ranks than a node has GPUs. Every target proves the engine's files before the server starts, and
    asks for a token before it calls it healthy.
    """
    from pydantic import ValidationError

    from scripts.flows.deploy import apply, write_deployment
    from tpforge.outputs.places import find_engine
    from triton_repo.deploy.options import DeployOptions

    output = Output(as_json=as_json)
    given = {key: value for key, value in values.items() if value is not None}
    given["environment"] = tuple(_setting(word, option="--env") for word in values["environment"])
    given["annotations"] = tuple(_setting(word, option="--annotation") for word in values["annotations"])
    given["monitor_labels"] = tuple(
        _setting(word, option="--monitor-label") for word in values["monitor_labels"]
    )
    try:
        options = DeployOptions.model_validate(given)
    except ValidationError as error:
        problems = [f"--{problem['loc'][-1]}: {problem['msg']}" for problem in error.errors()]
        raise UsageError("; ".join(problems)) from error
    written = write_deployment(find_engine(engine), target, options, plan=plan, out=out, force=force)
    for warning in written.deployment.warnings:
        output.note(f"warning: {warning}")
    for name in written.files:
        output.result(str(written.folder / name))
    output.record(
        "deployment",
        {
            "target": target,
            "folder": str(written.folder),
            "files": list(written.files),
            "apply": list(written.apply),
            "deployment": written.deployment.model_dump(mode="json"),
        },
    )
    if apply_now:
        output.progress(f"running {shlex.join(written.apply)} in {written.folder}")
        apply(written)
    else:
        output.note(f"start it: cd {shlex.quote(str(written.folder))} && {shlex.join(written.apply)}")


def _setting(word: str, *, option: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals:
        raise UsageError(f"{option} {word}: expected NAME=VALUE")
    return name, value
