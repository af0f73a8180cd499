"""Where a cluster puts the pods of an engine and before whom: what a site's scheduler wants to be told.

It changes nothing of what runs in a pod.
Sources: kueue.sigs.k8s.io, "Run LeaderWorkerSet", "Run Deployment" and "Topology-Aware Scheduling";
NVIDIA/k8s-dra-driver-gpu, ComputeDomain of resource.nvidia.com/v1beta1.
"""

from __future__ import annotations

from typing import Any

from triton_repo.deploy.deployment import Deployment

Object = dict[str, Any]
_QUEUE = "kueue.x-k8s.io/queue-name"
_TOPOLOGY = "kueue.x-k8s.io/podset-required-topology"


def placed(deployment: Deployment) -> Object:
    """Fields of a pod's spec: priority, runtime class, pull secrets, tolerations."""
    options = deployment.options
    found: Object = {}
    if options.priority_class is not None:
        found["priorityClassName"] = options.priority_class
    if options.runtime_class is not None:
        found["runtimeClassName"] = options.runtime_class
    if options.pull_secrets:
        found["imagePullSecrets"] = [{"name": name} for name in options.pull_secrets]
    tolerations = [_toleration("nvidia.com/gpu=:NoSchedule")] if deployment.needs_gpus else []
    tolerations += [_toleration(word) for word in options.tolerations]
    if tolerations:
        found["tolerations"] = tolerations
    return found


def spread(topology_key: str, selected: dict[str, str]) -> Object:
    """Evenly over the domains of a label; a pod that finds no such place starts all the same."""
    constraint = {
        "maxSkew": 1,
        "topologyKey": topology_key,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": selected},
    }
    return {"topologySpreadConstraints": [constraint]}


def queue_labels(deployment: Deployment) -> dict[str, str]:
    """Of the object whose pods Kueue is to admit together."""
    return {_QUEUE: deployment.options.queue} if deployment.options.queue else {}


def topology_annotations(deployment: Deployment) -> dict[str, str]:
    """Of a pod: Kueue places all of one kind in one such domain."""
    key = deployment.options.queue_topology
    return {_TOPOLOGY: key} if key else {}


def compute_domain(deployment: Deployment, metadata: Object) -> list[Object]:
    """The domain in which ranks of several nodes reach each other's memory by NVLink, where one is asked for.

    The driver makes the template of claims that its pods name. No number of nodes: pods of the domain start
    as they come, since release 25.8 of the driver.
    """
    if not deployment.options.compute_domain:
        return []
    channel = {"resourceClaimTemplate": {"name": f"{deployment.name}-channel"}}
    return [
        {
            "apiVersion": "resource.nvidia.com/v1beta1",
            "kind": "ComputeDomain",
            "metadata": metadata,
            "spec": {"numNodes": 0, "channel": channel},
        }
    ]


def join_compute_domain(spec: Object, deployment: Deployment) -> None:
    """A pod's claim on a channel of the domain."""
    if deployment.options.compute_domain:
        template = f"{deployment.name}-channel"
        spec["resourceClaims"] = [{"name": "channel", "resourceClaimTemplateName": template}]
        spec["containers"][0]["resources"]["claims"] = [{"name": "channel"}]


def _toleration(word: str) -> Object:
    """KEY, KEY=VALUE, with :EFFECT behind, as `kubectl taint` writes a taint."""
    pair, _, effect = word.partition(":")
    key, _, value = pair.partition("=")
    how = {"operator": "Equal", "value": value} if value else {"operator": "Exists"}
    return {"key": key, **how, **({"effect": effect} if effect else {})}
