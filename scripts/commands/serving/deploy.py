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
@click.option("--replicas", type=SIZE, default=1, show_default=True, help="Kubernetes: how many.")
@click.option("--max-replicas", type=SIZE, default=4, show_default=True, help="Of the autoscaler.")
@click.option("--gpus-per-node", type=SIZE, default=8, show_default=True, help="GPUs of a node.")
@click.option("--gpu-product", metavar="LABEL", help="Kubernetes: nvidia.com/gpu.product of the nodes.")
@click.option("--topology-key", metavar="LABEL", help="multi-node: the domain that a group must share.")
@click.option(
    "--load-timeout",
    type=SIZE,
    metavar="SECONDS",
    help="For a start.  [default: 120, 1 for each 250 MB, and 300 for TensorRT-LLM]",
)
@click.option(
    "--grace",
    type=click.IntRange(0, 86400),
    metavar="SECONDS",
    help="For requests in flight at the end.  [default: the longest request at 25 tokens/s, 30 to 600]",
)
@click.option(
    "--monitor-label",
    "monitor_labels",
    multiple=True,
    metavar="NAME=VALUE",
    help="Kubernetes: by which Prometheus finds monitors and rules, as release=prometheus.",
)
@click.option(
    "--monitor-namespace",
    metavar="NAME",
    help="Kubernetes: of Prometheus, which trtllm-serve's port lets in.  [default: monitoring]",
)
@click.option(
    "--surge", type=click.IntRange(min=0), default=1, show_default=True, help="Pods a rollout adds."
)
@click.option("--priority-class", metavar="NAME", help="Kubernetes: of the pods.")
@click.option("--runtime-class", metavar="NAME", help="Kubernetes: of the pods, as nvidia.")
@click.option("--pull-secret", "pull_secrets", multiple=True, metavar="NAME", help="Kubernetes: for images.")
@click.option("--toleration", "tolerations", multiple=True, metavar="TAINT", help="KEY[=VALUE][:EFFECT].")
@click.option("--spread", metavar="LABEL", help="Kubernetes: over whose domains pods are spread.")
@click.option(
    "--annotation", "annotations", multiple=True, metavar="NAME=VALUE", help="Kubernetes: of the pods."
)
@click.option(
    "--guaranteed",
    is_flag=True,
    help="Kubernetes: limits that are the requests (QoS Guaranteed).",
)
@click.option("--queue", metavar="NAME", help="Kueue: the local queue that admits the pods.")
@click.option("--queue-topology", metavar="LABEL", help="Kueue: the domain in which pods are placed.")
@click.option(
    "--allow-from", multiple=True, metavar="CIDR", help="Kubernetes: clients outside the namespace."
)
@click.option(
    "--gateway",
    metavar="[NAMESPACE/]NAME",
    help="kubernetes: the Gateway that chooses pods of trtllm-serve by an endpoint picker.",
)
@click.option(
    "--rdma", metavar="RESOURCE", help="multi-node: the fabric's devices, as rdma/hca_shared_devices_a."
)
@click.option("--rdma-count", type=SIZE, default=1, show_default=True, help="multi-node: of these a pod.")
@click.option("--compute-domain", is_flag=True, help="multi-node: NVLink over nodes, as of GB200 NVL72.")
@click.option("--host-network", is_flag=True, help="multi-node: the nodes' own network.")
@click.option(
    "--env", "environment", multiple=True, metavar="NAME=VALUE", help="For the ranks, as NCCL_DEBUG=INFO."
)
@click.option(
    "--router-mode",
    type=click.Choice(["round-robin", "random", "power-of-two", "least-loaded", "kv"]),
    help="dynamo: how its front chooses a worker.  [default: round-robin]",
)
@click.option("--prefill-workers", type=SIZE, help="dynamo: workers that compute prompts only.")
@click.option("--decode-workers", type=SIZE, help="dynamo: workers that answer, beside those.")
@click.option(
    "--plan",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="As many replicas as `tpforge plan --json` says; dynamo: as many workers, apart too.",
)
@click.option("--storage-class", metavar="NAME", help="Kubernetes: of the claim that holds engines.")
@click.option("--partition", help="Slurm: the partition.")
@click.option("--account", help="Slurm: the account that pays.")
@click.option("--qos", help="Slurm: the quality of service.")
@click.option("--time-limit", default="24:00:00", show_default=True, help="Slurm: of the job.")
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
