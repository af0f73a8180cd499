"""The options of `tpforge deploy` that one target or a kind of them has. They write nothing."""

from __future__ import annotations

import click

from scripts.cli.options.common import SIZE, Decorator, together

ON_KUBERNETES = ("kubernetes", "helm", "multi-node", "dynamo", "kserve")
"""Targets whose ranks are pods."""


def targets_of() -> dict[str, tuple[str, ...]]:
    """For which targets an option is, by its parameter's name; those of all targets are left out."""
    groups = (
        (kubernetes_options(), ON_KUBERNETES),
        (pod_options(), ON_KUBERNETES),
        (multi_node_options(), ("multi-node",)),
        (dynamo_options(), ("dynamo", "dynamo-compose")),
        (slurm_options(), ("slurm",)),
    )
    found = {name: targets for options, targets in groups for name in _names(options)}
    return {**found, "storage_uri": ("kserve",)}


def _names(options: Decorator) -> list[str]:
    @click.command()
    @options
    def command() -> None: ...

    return [param.name for param in command.params if param.name is not None]


def kubernetes_options() -> Decorator:
    """Kubernetes, and Helm's chart: where pods run, who reaches them, what watches them."""
    return together(
        click.option("--namespace", default="default", show_default=True, help="Kubernetes: the namespace."),
        click.option(
            "--max-replicas",
            type=SIZE,
            default=4,
            show_default=True,
            help="Kubernetes: the most that the autoscaler starts.",
        ),
        click.option(
            "--surge",
            type=click.IntRange(min=0),
            default=1,
            show_default=True,
            help="Pods that a rollout may add.",
        ),
        click.option(
            "--gpu-product",
            metavar="LABEL",
            help="Kubernetes: nodes with this nvidia.com/gpu.product.  [default: the GPU of the build]",
        ),
        click.option(
            "--storage-class",
            metavar="NAME",
            help="Kubernetes: storage class of the claim that holds engines.",
        ),
        click.option(
            "--allow-from",
            multiple=True,
            metavar="CIDR",
            help="Kubernetes: addresses of clients outside the namespace; may be repeated.",
        ),
        click.option(
            "--gateway",
            metavar="[NAMESPACE/]NAME",
            help="kubernetes: the Gateway that chooses pods of trtllm-serve by an endpoint picker.",
        ),
        click.option(
            "--monitor-label",
            "monitor_labels",
            multiple=True,
            metavar="NAME=VALUE",
            help="Kubernetes: label by which Prometheus finds monitors and rules: release=prometheus.",
        ),
        click.option(
            "--monitor-namespace",
            metavar="NAME",
            help="Kubernetes: Prometheus' namespace, let in to trtllm-serve's port.  [default: monitoring]",
        ),
    )


def pod_options() -> Decorator:
    """Kubernetes: what a site's scheduler wants to know of the pods."""
    return together(
        click.option("--priority-class", metavar="NAME", help="Kubernetes: priority class of the pods."),
        click.option(
            "--runtime-class", metavar="NAME", help="Kubernetes: runtime class of the pods, such as nvidia."
        ),
        click.option(
            "--pull-secret",
            "pull_secrets",
            multiple=True,
            metavar="NAME",
            help="Kubernetes: secret for pulling images; may be repeated.",
        ),
        click.option(
            "--toleration",
            "tolerations",
            multiple=True,
            metavar="TAINT",
            help="Kubernetes: KEY[=VALUE][:EFFECT] that the pods tolerate; may be repeated.",
        ),
        click.option(
            "--spread", metavar="LABEL", help="Kubernetes: label over whose domains pods are spread."
        ),
        click.option(
            "--annotation",
            "annotations",
            multiple=True,
            metavar="NAME=VALUE",
            help="Kubernetes: annotation of the pods; may be repeated.",
        ),
        click.option(
            "--guaranteed",
            is_flag=True,
            help="Kubernetes: limits equal to requests (QoS class Guaranteed).",
        ),
        click.option("--queue", metavar="NAME", help="Kueue: the local queue that admits the pods."),
        click.option("--queue-topology", metavar="LABEL", help="Kueue: the domain in which pods are placed."),
    )


def multi_node_options() -> Decorator:
    """Ranks of several nodes: what joins them."""
    return together(
        click.option(
            "--topology-key", metavar="LABEL", help="multi-node: the domain that a group must share."
        ),
        click.option(
            "--rdma",
            metavar="RESOURCE",
            help="multi-node: resource of the fabric's devices, such as rdma/hca_shared_devices_a.",
        ),
        click.option(
            "--rdma-count",
            type=SIZE,
            default=1,
            show_default=True,
            help="multi-node: how many of these a pod has.",
        ),
        click.option(
            "--compute-domain", is_flag=True, help="multi-node: NVLink between nodes, as in GB200 NVL72."
        ),
        click.option("--host-network", is_flag=True, help="multi-node: use the nodes' own network."),
    )


def dynamo_options() -> Decorator:
    """NVIDIA Dynamo: its front and its workers."""
    return together(
        click.option(
            "--router-mode",
            type=click.Choice(["round-robin", "random", "power-of-two", "least-loaded", "kv"]),
            help="dynamo: how its front chooses a worker.  [default: round-robin]",
        ),
        click.option("--prefill-workers", type=SIZE, help="dynamo: workers that compute prompts only."),
        click.option("--decode-workers", type=SIZE, help="dynamo: workers that generate answers only."),
    )


def slurm_options() -> Decorator:
    """Slurm: the job."""
    return together(
        click.option("--partition", help="Slurm: the partition."),
        click.option("--account", help="Slurm: the account that pays."),
        click.option("--qos", help="Slurm: the quality of service."),
        click.option(
            "--time-limit", default="24:00:00", show_default=True, help="Slurm: time limit of the job."
        ),
        click.option(
            "--container",
            type=click.Choice(["pyxis", "modules"]),
            default="pyxis",
            show_default=True,
            help="Slurm: the container by pyxis and enroot, or the site's modules.",
        ),
        click.option("--module", "modules", multiple=True, help="Slurm: a module to load; may be repeated."),
    )
