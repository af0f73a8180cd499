"""Names, labels and annotations of the objects of an engine: how they find each other.

It makes no object.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from triton_repo.deploy import files
from triton_repo.deploy.deployment import Deployment
from triton_repo.deploy.kubernetes.placement import queue_labels, topology_annotations

Object = dict[str, Any]


def labels(deployment: Deployment) -> dict[str, str]:
    """What selects the pods of an engine."""
    return labels_of(deployment.name)


def labels_of(name: str) -> dict[str, str]:
    """The same by a name."""
    return {"app.kubernetes.io/name": "tpforge", "app.kubernetes.io/instance": name}


def metadata(deployment: Deployment, suffix: str = "") -> Object:
    """Name and labels of an object."""
    return {"name": f"{deployment.name}{suffix}", "labels": labels(deployment)}


def queued(deployment: Deployment) -> Object:
    """Name and labels of the object whose pods a queue may hold back."""
    found = metadata(deployment)
    return {**found, "labels": {**found["labels"], **queue_labels(deployment)}}


def pod_metadata(deployment: Deployment, config: Mapping[str, str], **more: str) -> Object:
    """Labels of a pod, and the checksum by which a new engine or a new script replaces running pods."""
    return {
        "labels": {**labels(deployment), **more},
        "annotations": {
            "checksum/config": files.checksum(config, engine_sha256=deployment.engine_sha256),
            **topology_annotations(deployment),
            **dict(deployment.options.annotations),
        },
    }
